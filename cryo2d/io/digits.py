"""Numbers to text, a whole column at once.

Python formats about three million numbers a second; a table of a million particles has seventeen
million results. Here every character position is one plane ``[w n]``: arithmetic over a plane is
vectorised, and the planes of a row are brought together at the end.
"""

import numpy as np

BLANK, ZERO, MINUS, POINT = (ord(c) for c in " 0-.")
LARGEST = 1e15
MANY = 10000
"""More distinct float32 than this are formatted without Python's help."""


def fixed(values: np.ndarray, decimals: int) -> np.ndarray:
    """Format numbers with a fixed number of decimals, right-aligned.

    Args:
        values: numbers ``[n]``; NaN and numbers too large for this notation become ``%.9g``.
        decimals: digits after the point; 0 for whole numbers without a point.

    Returns:
        Planes of text ``[w n]`` (uint8), padded with blanks.
    """
    numbers = np.asarray(values, np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = np.rint(np.abs(numbers) * 10.0**decimals)
    if not len(numbers) or not (scaled < LARGEST).all():
        return planes(general(numbers))
    negative = (numbers < 0) & (scaled > 0)
    width = max(len(str(int(scaled.max()))), decimals + 1)
    whole = width - decimals
    digits = zero_padded(scaled.astype(np.uint64), width)
    text = np.full((1 + width + (decimals > 0), len(numbers)), BLANK, np.uint8)
    text[1 : 1 + whole] = digits[:whole]
    if decimals:
        text[1 + whole] = POINT
        text[2 + whole :] = digits[whole:]
    leading = np.ones(len(numbers), bool)
    for i in range(whole):
        first = leading
        leading = leading & (text[1 + i] == ZERO) & (i + 1 < whole)
        text[1 + i][leading] = BLANK
        text[i][negative & first & ~leading] = MINUS
    return text


def zero_padded(numbers: np.ndarray, width: int) -> np.ndarray:
    """Digits of whole numbers ``[n]``, with leading zeros: planes ``[width n]`` (uint8)."""
    digits = np.empty((width, len(numbers)), np.uint8)
    small = not len(numbers) or int(numbers.max()) < 1 << 32
    left = numbers.astype(np.uint32 if small else np.uint64)
    for i in range(width - 1, -1, -1):
        last = left
        left = last // 10
        digits[i] = np.subtract(last, 10 * left)
    return digits + np.uint8(ZERO)


def general(values: np.ndarray, *, exact: bool = True) -> np.ndarray:
    """Numbers ``[n]`` as byte strings ``[n]``.

    Whole numbers as ``%d``, others as ``%.9g``, which holds a float32 exactly; float64 as ``%.17g``
    where nine digits are not ``exact``.
    """
    distinct, codes = np.unique(values, return_inverse=True)
    if values.dtype == np.float32 and len(distinct) > MANY:
        return _scientific(values)
    if distinct.dtype.kind in "iub":
        texts = [b"%d" % v for v in distinct.tolist()]
    else:
        wide = exact and distinct.dtype.itemsize > 4
        texts = [_exact(v) if wide else b"%.9g" % v for v in distinct.tolist()]
    return np.array(texts or [b""], dtype=bytes)[codes.ravel()]


def _scientific(values: np.ndarray) -> np.ndarray:
    """Many float32 ``[n]`` as ``-1.23456789e-05``: nine digits, which hold them exactly."""
    wide = values.astype(np.float64)
    size = np.abs(wide)
    ordinary = np.isfinite(wide) & (size > 1e-30)
    exponent = np.floor(np.log10(np.where(ordinary, size, 1.0))).astype(np.int64)
    digits = np.rint(size / 10.0 ** (exponent - 8.0), where=ordinary, out=np.zeros(len(wide)))
    # Rounding up to the next power of ten, or a logarithm that fell just short of a whole number.
    exponent += digits >= 1e9
    digits = np.where(digits >= 1e9, np.rint(digits / 10), digits)
    text = np.empty((len(wide), 15), np.uint8)
    text[:, 0] = np.where(wide < 0, MINUS, ord("+"))
    text[:, 2] = POINT
    for i, plane in enumerate(zero_padded(digits.astype(np.uint64), 9)):
        text[:, i + 1 + (i > 0)] = plane
    text[:, 11] = ord("e")
    text[:, 12] = np.where(exponent < 0, MINUS, ord("+"))
    text[:, 13:] = zero_padded(np.abs(exponent), 2).T
    words = text.view("S15").ravel()
    lost = np.flatnonzero((words.astype(np.float64).astype(np.float32) != values) | ~ordinary)
    words[lost] = [b"%.9g" % v for v in wide[lost].tolist()]
    return words


def _exact(value: float) -> bytes:
    short = b"%.9g" % value
    return short if float(short) == value else b"%.17g" % value


def planes(texts: np.ndarray) -> np.ndarray:
    """Byte strings ``[n]`` as planes ``[w n]`` (uint8), padded with blanks."""
    texts = np.ascontiguousarray(texts)
    matrix = texts.view(np.uint8).reshape(len(texts), texts.dtype.itemsize).T.copy()
    matrix[matrix == 0] = BLANK
    return matrix
