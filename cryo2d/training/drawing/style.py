"""One look for every picture of a run: ink, accents, typefaces, axes."""

import io
from functools import cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageFont

INK = "#1c2126"
MUTED = "#6b747d"
RULE = "#d5dade"
BLANK = "#f1f3f4"
ACCENT = "#1f5f8b"
SECOND = "#c8553d"
SOFT = "#a9c6d9"
WARNING = "#b4510c"
GROUPS = ("#1f5f8b", "#c8553d", "#3c8d5a", "#7b5ea7", "#c08a1e", "#4a4f55")


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along, at a size in pixels."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(mpl.get_data_path(), "fonts", "ttf", name)), size)


def figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, drawn by Agg, outside of pyplot's global state."""
    fig = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(fig)
    return fig


def dress(ax: Axes, *, title: str = "", x: str = "", y: str = "") -> None:
    """Title on the left, axis labels, thin spines at the left and the bottom only."""
    ax.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
    ax.set_xlabel(x, fontsize=9, color=INK)
    ax.set_ylabel(y, fontsize=9, color=INK)
    ax.tick_params(which="both", labelsize=8, color=MUTED, labelcolor=INK, width=0.6, length=3)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(MUTED)
    ax.spines[["left", "bottom"]].set_linewidth(0.6)


def figure_png(fig: Figure, dpi: int = 160) -> bytes:
    """The figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def image_png(image: np.ndarray) -> bytes:
    """A ``uint8`` image, ``[y x]`` grey or ``[y x 3]`` colour, as the bytes of a PNG file."""
    buffer = io.BytesIO()
    # level 1: class averages are noise to a compressor, higher levels cost time and save little
    Image.fromarray(image).save(buffer, format="png", compress_level=1)
    return buffer.getvalue()
