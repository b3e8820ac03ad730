"""Records the curves that the detector of overfitting is judged on, by really training.

``python tests/callbacks/record_curves.py`` writes ``curves.json`` beside it: for each curve the
training loss and the validation loss after every epoch. Small networks on scikit-learn's digits,
and for the double descent a linear model of two kinds of features, one learned fast and one slowly.

Source of the latter: R. Heckel and F. F. Yilmaz, "Early Stopping in Deep Networks: Double Descent
and How to Eliminate it", ICLR 2021, section 3.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

CURVES = Path(__file__).with_name("curves.json")
Curve = dict[str, list[float]]


def main() -> None:
    curves = {
        "overfitting": digits(train=150, wrong=0.3, hidden=512, learning_rate=3e-3, epochs=40),
        "noisy but healthy": digits(
            train=1400, val=40, hidden=64, learning_rate=3e-3, dropout=0.5, epochs=40
        ),
        "double descent": double_descent(epochs=45),
        "plateau": digits(train=1400, hidden=0, learning_rate=0.02, epochs=40, weight_decay=0.1),
        "collapse": digits(train=1400, hidden=32, learning_rate=3e-3, epochs=30, grows=1.45),
    }
    CURVES.write_text(json.dumps(curves, indent=1) + "\n")
    for name, curve in curves.items():
        print(name)
        for part, values in curve.items():
            print("  ", part, *(f"{v:.3g}" for v in values))


def digits(
    train: int,
    hidden: int,
    learning_rate: float,
    epochs: int,
    val: int = 300,
    wrong: float = 0.0,
    dropout: float = 0.0,
    weight_decay: float = 0.0,
    grows: float = 1.0,
) -> Curve:
    """A network on digits; a share of the labels wrong, or a learning rate that grows."""
    torch.manual_seed(0)
    found = load_digits()
    order = torch.randperm(len(found.target))
    x = torch.tensor(found.data, dtype=torch.float32)[order] / 16
    y = torch.tensor(found.target)[order]
    x_val, y_val, x, y = x[-val:], y[-val:], x[:train], y[:train].clone()
    mistaken = torch.rand(train) < wrong
    y[mistaken] = torch.randint(10, (int(mistaken.sum()),))
    model: nn.Module = nn.Linear(64, 10)
    if hidden:
        layers = [nn.Linear(64, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, 10)]
        model = nn.Sequential(*layers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    curve: Curve = {"train_loss": [], "val_loss": []}
    for _ in range(epochs):
        model.train()
        losses = []
        for rows in torch.randperm(train).split(32):
            loss = F.cross_entropy(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        for group in optimizer.param_groups:
            group["lr"] *= grows
        model.eval()
        with torch.no_grad():
            val_loss = F.cross_entropy(model(x_val), y_val)
        note(curve, torch.stack(losses).mean(), val_loss)
    return curve


def double_descent(epochs: int) -> Curve:
    """Gradient descent on noisy measurements: what is learned fast overfits before the rest is."""
    torch.manual_seed(0)
    fast, slow, rows = 60, 60, 130
    scale = torch.cat([torch.ones(fast), torch.full((slow,), 0.1)])
    truth = torch.cat([torch.full((fast,), 0.8), torch.full((slow,), 6.0)])
    x, x_val = torch.randn(rows, fast + slow) * scale, torch.randn(2000, fast + slow) * scale
    y = x @ truth + 1.5 * torch.randn(rows)
    y_val = x_val @ truth
    weights = torch.zeros(fast + slow)
    curve: Curve = {"train_loss": [], "val_loss": []}
    done = 0
    for epoch in range(epochs):
        while done < 1.22**epoch:
            weights -= 0.1 * x.T @ (x @ weights - y) / rows
            done += 1
        note(curve, ((x @ weights - y) ** 2).mean(), ((x_val @ weights - y_val) ** 2).mean())
    return curve


def note(curve: Curve, train_loss: Tensor, val_loss: Tensor) -> None:
    curve["train_loss"].append(round(float(train_loss), 5))
    curve["val_loss"].append(round(float(val_loss), 5))


if __name__ == "__main__":
    main()
