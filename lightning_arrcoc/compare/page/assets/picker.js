// Whatever picture is chosen is drawn onto a canvas and sent as PNG: it loses its metadata, is
// turned upright, made smaller where it is too large, and no JPEG ever leaves the browser.
const say = text => { props.said = text; };  // a part of the template: what is drawn anew keeps it

async function take(file) {
  if (!file) return;
  say("Reading the picture …");
  try {
    if (file.type === "image/gif" || file.type === "image/svg+xml") throw new Error("expected PNG, JPEG or WebP");
    const found = await createImageBitmap(file, { imageOrientation: "from-image" });
    const scale = Math.min(1, Math.sqrt(props.max_pixels / (found.width * found.height)));
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.floor(found.width * scale));
    canvas.height = Math.max(1, Math.floor(found.height * scale));
    const pen = canvas.getContext("2d");
    pen.fillStyle = "white";
    pen.imageSmoothingQuality = "high";
    pen.drawImage(found, 0, 0, canvas.width, canvas.height);
    const url = canvas.toDataURL("image/png");
    if (url.length > props.most_letters) throw new Error("it is too large to be sent; make it smaller");
    use(url);
    say(scale < 1 ? `${found.width} × ${found.height} made smaller: ${canvas.width} × ${canvas.height}` : `${canvas.width} × ${canvas.height}`);
  } catch (error) {
    const why = error instanceof DOMException ? "it is damaged, or no picture" : error.message;
    say(`This file was not taken: ${why}.`);
  }
}

function use(url) {
  props.value = url;
  trigger("change");
}

element.addEventListener("change", event => {
  if (event.target.type !== "file") return;
  event.stopPropagation();
  take(event.target.files[0]);
});
element.addEventListener("click", event => {
  const button = event.target.closest(".examples button");
  if (!button) return;
  const example = props.examples[Number(button.dataset.number)];
  say("");
  use(example.url);
  if (example.question) trigger("select", { question: example.question });
});
element.addEventListener("keydown", event => {
  if (event.target.matches(".drop") && (event.key === "Enter" || event.key === " ")) {
    event.preventDefault();
    element.querySelector("input").click();
  }
});
for (const name of ["dragenter", "dragover"]) element.addEventListener(name, event => {
  event.preventDefault();
  element.querySelector(".drop").classList.add("over");
});
for (const name of ["dragleave", "drop"]) element.addEventListener(name, event => {
  event.preventDefault();
  element.querySelector(".drop").classList.remove("over");
});
element.addEventListener("drop", event => take(event.dataTransfer.files[0]));
document.addEventListener("paste", event => {
  const file = [...event.clipboardData.files].find(one => one.type.startsWith("image/"));
  if (file) take(file);
});
