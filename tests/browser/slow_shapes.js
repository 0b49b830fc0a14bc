// The painter's tools beside obvious ones, pixel by pixel; evaluated in the page. Returns what differs.
async () => {
    const shapes = await import('/extensions/fovea/js/painter/shapes.js');
    let seed = 1;
    const random = () => (seed = (seed * 16807) % 2147483647) / 2147483647;
    const grid = () => ({width: 37, height: 29, map: new Uint8Array(37 * 29)});
    const wrong = [];
    for (let turn = 0; turn < 60; turn++) {
        const p = () => ({x: random() * 50 - 6, y: random() * 40 - 6});
        const a = p(), b = p(), points = [p(), p(), p(), p(), p()], r = random() * 8 + 0.6;
        const slow = {
            stroke: (x, y) => { const dx = b.x - a.x, dy = b.y - a.y;
                const t = Math.min(1, Math.max(0, ((x - a.x) * dx + (y - a.y) * dy) / (dx * dx + dy * dy)));
                return Math.hypot(x - a.x - t * dx, y - a.y - t * dy) <= r; },
            ellipse: (x, y) => ((x - (a.x + b.x) / 2) / ((a.x - b.x) / 2)) ** 2
                + ((y - (a.y + b.y) / 2) / ((a.y - b.y) / 2)) ** 2 <= 1,
            polygon: (x, y) => { let inside = false;
                points.forEach((p, i) => { const q = points[(i + 1) % points.length];
                    if ((p.y <= y) !== (q.y <= y) && x >= p.x + (y - p.y) / (q.y - p.y) * (q.x - p.x)) inside = !inside; });
                return inside; },
        };
        for (const name of Object.keys(slow)) {
            const g = grid();
            if (name === 'polygon') shapes.polygon(g, points, 3);
            else if (name === 'stroke') shapes.stroke(g, a, b, r, 3);
            else if (!shapes.ellipse(g, a, b, 3)) continue;
            for (let at = 0; at < g.map.length; at++)
                if ((g.map[at] === 3) !== slow[name](at % 37 + 0.5, Math.floor(at / 37) + 0.5)) wrong.push(name);
        }
        const g = grid();
        for (let i = 0; i < 6; i++) shapes.stroke(g, p(), p(), 2, 1 + i % 2);
        const before = g.map.slice(), start = {x: random() * 37, y: random() * 29};
        const from = Math.floor(start.y) * 37 + Math.floor(start.x), reached = new Set([from]), open = [from];
        while (open.length) { const at = open.pop(), x = at % 37;
            for (const [ok, next] of [[x > 0, at - 1], [x < 36, at + 1], [at >= 37, at - 37], [at < 37 * 28, at + 37]])
                if (ok && before[next] === before[from] && !reached.has(next)) { reached.add(next); open.push(next); } }
        shapes.fill(g, start, 9);
        for (let at = 0; at < g.map.length; at++)
            if (g.map[at] !== (reached.has(at) ? 9 : before[at])) wrong.push('fill');
    }
    return [...new Set(wrong)];
}
