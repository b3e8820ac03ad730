// Pointing at a cell of one map marks it in all of them and writes its value below each.
(() => {
  const words = {
    hundredths: value => (value / 100).toFixed(2),
    level: value => value < 0 ? "dropped" : value === 0 ? "kept" : `kept, ${2 ** value} × ${2 ** value} cells`,
    count: value => value === 0 ? "kept by nobody" : value === 1 ? "kept by one" : `kept by ${value}`,
  };
  const captions = map => (map.closest("figure, .card") ?? map.parentElement).querySelectorAll(".at");

  function leave() {
    for (const map of document.querySelectorAll(".cells[data-values]")) {
      map.classList.remove("pointed");
      for (const at of captions(map)) at.textContent = "";
    }
  }

  function point(event) {
    const here = event.target.closest?.(".cells[data-values]");
    if (!here) return leave();
    const box = here.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height;
    for (const map of document.querySelectorAll(".cells[data-values]")) {
      const rows = Number(map.dataset.rows), columns = Number(map.dataset.columns);
      const row = Math.min(rows - 1, Math.max(0, Math.floor(y * rows)));
      const column = Math.min(columns - 1, Math.max(0, Math.floor(x * columns)));
      const mark = map.querySelector(".mark");
      mark.style.cssText = `left:${100 * column / columns}%;top:${100 * row / rows}%;width:${100 / columns}%;height:${100 / rows}%`;
      map.classList.add("pointed");
      const value = Number(map.dataset.values.split(" ")[row * columns + column]);
      for (const at of captions(map)) at.textContent = words[map.dataset.kind](value);
    }
  }
  document.addEventListener("pointermove", point);
  document.addEventListener("pointerdown", point);
})();
