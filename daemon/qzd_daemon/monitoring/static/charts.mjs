// Draw the last minute of a label as a line.

const SVG = "http://www.w3.org/2000/svg";

// Return an element that `set` fills with counts, the oldest first.
export function sparkline() {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("role", "img");
  svg.setAttribute("preserveAspectRatio", "none");
  const line = document.createElementNS(SVG, "polyline");
  svg.append(line);
  const set = (label, counts) => {
    const most = Math.max(1, ...counts);
    svg.setAttribute("viewBox", `0 -1 ${Math.max(1, counts.length - 1)} ${most + 2}`);
    svg.setAttribute("aria-label", `${label}: at most ${Math.max(0, ...counts)} in one frame in the last minute`);
    line.setAttribute("points", counts.map((count, at) => `${at},${most - count}`).join(" "));
  };
  return { element: svg, set };
}
