"""A scatter of KL divergence (log axis) over stored bits a weight, as an SVG written by hand: no plotting library.

Lower and further left is better. A vertical bar is two standard errors either way; names stand beside their mark, moved
apart where they would overlap.
"""
import html
import math

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 560, 84, 24, 56, 60
LOOKS = {"llama.cpp": ("#b4541a", "circle"), "sluice": ("#14618c", "square")}


def ticks(low, high):
    """Powers of ten, with 2 and 5 between."""
    return [(m * 10.0 ** e, m == 1) for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            for m in (1, 2, 5) if low <= m * 10.0 ** e <= high]


def place(x, y, name, taken):
    """Where a name goes: beside its mark, or the nearest height at which it covers neither a mark, another name nor the axis.
    `taken` holds boxes (left, top, right, bottom)."""
    for off in (0, 13, -13, 26, -26, 39, -39):
        for side in ("right", "left"):
            left = x + 9 if side == "right" else x - 9 - 7 * len(name)
            box = left, y + off - 6, left + 7 * len(name), y + off + 6
            free = all(box[2] <= t[0] or t[2] <= box[0] or box[3] <= t[1] or t[3] <= box[1] for t in taken)
            if free and box[0] >= LEFT and box[2] <= WIDTH:
                taken.append(box)
                return left, y + off + 4
    return x + 9, y + 4


def mark(kind, x, y, colour):
    if kind == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}"/>'
    return f'<rect x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10" fill="{colour}"/>'


def scatter(points, title):
    """points: (engine, name, bits, kld, error) with kld > 0 -> the text of an SVG."""
    bits = [p[2] for p in points]
    low, high = min(p[3] for p in points) / 1.6, max(p[3] for p in points) * 1.6
    left, right = math.floor(min(bits)) - 0.25, math.ceil(max(bits)) + 0.5

    def at(b, k):
        x = LEFT + (b - left) / (right - left) * (WIDTH - LEFT - RIGHT)
        y = TOP + (math.log(high) - math.log(k)) / (math.log(high) - math.log(low)) * (HEIGHT - TOP - BOTTOM)
        return x, min(max(y, TOP), HEIGHT - BOTTOM)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
           'font-family="Helvetica, Arial, sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
           f'<text x="{LEFT}" y="24" font-size="15">{html.escape(title)}</text>']
    for value, whole in ticks(low, high):
        _, y = at(left, value)
        grey = "#999" if whole else "#e4e4e4"
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{grey}"/>'
                   f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for b in range(math.ceil(left), math.floor(right) + 1):
        x, _ = at(b, high)
        out.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="#e4e4e4"/>'
                   f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{b}</text>')
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 14}" text-anchor="middle">'
               'stored bits a weight, all matrices but embedding and router</text>'
               f'<text transform="translate(18 {(TOP + HEIGHT - BOTTOM) / 2:.0f}) rotate(-90)" text-anchor="middle">mean KL '
               'divergence from f32, nats</text>')
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in (at(p[2], p[3]) for p in points)]
    for engine, name, b, k, error in sorted(points, key=lambda p: -p[3]):
        colour, kind = LOOKS[engine]
        x, y = at(b, k)
        _, top = at(b, k + 2 * error)
        _, bottom = at(b, max(k - 2 * error, low))
        left_of_name, base = place(x, y, name, taken)
        out.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}" stroke="{colour}"/>'
                   f'{mark(kind, x, y, colour)}'
                   f'<text x="{left_of_name:.1f}" y="{base:.1f}" fill="{colour}">{html.escape(name)}</text>')
    for i, (engine, (colour, kind)) in enumerate(LOOKS.items()):
        x = WIDTH - RIGHT - 190 + 100 * i
        out.append(f'{mark(kind, x, 20, colour)}<text x="{x + 12}" y="24">{engine}</text>')
    return "\n".join(out) + "\n</svg>\n"
