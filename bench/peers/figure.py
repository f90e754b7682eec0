"""The figure of serve.py as an SVG written by hand: TTFT, TPOT and goodput over the rate, a line a server.

Times are on a log axis: the median whole, the 99th percentile (of all rounds) dashed. What lies among failed requests has no
height: it is an open triangle at the top.
"""
import html
import math

WIDTH, HEIGHT, LEFT, TOP, BOTTOM, GAP = 1080, 380, 64, 72, 56, 84
COLOURS = {"sluice": "#14618c", "llama.cpp": "#b4541a", "ik_llama.cpp": "#5a7d2a"}
PANELS = [("TTFT, ms", "ttft_p50", "ttft_p99"), ("time per output token, ms", "tpot_p50", "tpot_p99"),
          ("good requests/s", "good_per_s", None)]


def round_values(low, high, log):
    """For ticks: 1, 2, 5 times powers of ten, or five steps or so."""
    if log:
        return [m * 10.0 ** e for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
                for m in (1, 2, 5) if low <= m * 10.0 ** e <= high * 1.0001]
    step = 10.0 ** math.floor(math.log10(high / 4))
    step = next(step * m for m in (1, 2, 5, 10) if high / (step * m) <= 6)
    return [i * step for i in range(int(high / step + 1e-9) + 1)]


class Panel:
    def __init__(self, left, width, rates, values, log):
        self.left, self.right, self.rates, self.log = left, left + width, rates, log
        finite = [v for v in values if v is not None and math.isfinite(v) and v > 0] or [1.0]
        self.low, self.high = (min(finite) / 1.4, max(finite) * 1.6) if log else (0.0, max([*finite, *rates]) * 1.08)

    def x(self, rate):
        if len(self.rates) == 1:
            return (self.left + self.right) / 2
        low, high = math.log(self.rates[0]), math.log(self.rates[-1])
        return self.left + 16 + (math.log(rate) - low) / (high - low) * (self.right - self.left - 32)

    def y(self, value):
        f = math.log if self.log else float
        share = (f(value) - f(self.low)) / (f(self.high) - f(self.low))
        return HEIGHT - BOTTOM - min(max(share, 0), 1) * (HEIGHT - BOTTOM - TOP)

    def frame(self, title):
        out = [f'<text x="{self.left}" y="{TOP - 12}" font-weight="bold">{html.escape(title)}</text>']
        for value in round_values(self.low, self.high, self.log):
            y = self.y(value)
            out.append(f'<line x1="{self.left}" x2="{self.right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e2e2e2"/>'
                       f'<text x="{self.left - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
        for rate in self.rates:
            out.append(f'<text x="{self.x(rate):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{rate:g}</text>')
        middle = (self.left + self.right) / 2
        return out + [f'<text x="{middle:.1f}" y="{HEIGHT - BOTTOM + 38}" text-anchor="middle">requests/s</text>']

    def line(self, points, colour, dashed):
        """points: [(rate, value)]; None is left out."""
        out, path = [], []
        for rate, value in points:
            x = self.x(rate)
            if value is None:
                continue
            if math.isinf(value):
                out.append(f'<path d="M{x - 5:.1f} {TOP + 9} L{x + 5:.1f} {TOP + 9} L{x:.1f} {TOP} Z" fill="white" '
                           f'stroke="{colour}"><title>failed</title></path>')
                continue
            y = self.y(value)
            path.append(f"{x:.1f},{y:.1f}")
            out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{2.5 if dashed else 4}" fill="{colour}">'
                       f'<title>{value:.4g}</title></circle>')
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        return [f'<polyline points="{" ".join(path)}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>', *out]


def draw(title, rows, names):
    """rows: of serve.py's table -> the text of an SVG."""
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
           'font-family="Helvetica, Arial, sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
           f'<text x="{LEFT}" y="24" font-size="15">{html.escape(title)}</text>']
    x = LEFT + 8.0 * 90
    for name in names:
        colour = COLOURS.get(name, "#555")
        out.append(f'<circle cx="{x:.0f}" cy="20" r="4" fill="{colour}"/><text x="{x + 9:.0f}" y="24">{html.escape(name)}</text>')
        x += 40 + 7 * len(name)
    out.append(f'<text x="{LEFT}" y="42" fill="#555">whole: median; dashed: 99th percentile; open triangle: failed</text>')
    rates = sorted({r["rate"] for r in rows})
    width = (WIDTH - LEFT - 24 - (len(PANELS) - 1) * GAP) / len(PANELS)
    for i, (head, whole, dashed) in enumerate(PANELS):
        keys = [k for k in (whole, dashed) if k]
        panel = Panel(LEFT + i * (width + GAP), width, rates, [r[k] for r in rows for k in keys], whole != "good_per_s")
        out += panel.frame(head)
        if whole == "good_per_s":  # what was offered
            out += panel.line([(r, r) for r in rates], "#bbb", True)
        for name in names:
            of = sorted((r for r in rows if r["engine"] == name), key=lambda r: r["rate"])
            for key in keys:
                out += panel.line([(r["rate"], r[key]) for r in of], COLOURS.get(name, "#555"), key == dashed)
    return "\n".join([*out, "</svg>\n"])
