"""The page that compares checkpoints: Gradio's widgets around views that we draw ourselves.

Whatever shows pictures or numbers is HTML made here; Gradio neither opens a picture nor serves a
file of ours. Only `blocks` and `serving` import it.
"""
