/** The painting tools: name, label, key, what to do with it. The first is the one that a new painter starts with. */

const DRAG = "Drag. Shift: as wide as high. Ctrl: no snapping. Click a shape to change it.";

export const TOOLS = [
  ["brush", "Brush (B)", "b", ""], ["eraser", "Eraser (E)", "e", ""],
  ["rectangle", "Rectangle (R)", "r", DRAG], ["ellipse", "Ellipse (O)", "o", DRAG],
  ["lasso", "Lasso (L)", "l", "Draw around the place."],
  ["polygon", "Polygon (P)", "p", "Click corners. Double-click or Enter closes it."],
  ["bucket", "Fill (G)", "g", "Click a place to fill it up to the next region."],
  ["move", "Move (V)", "v", "Drag a region. Arrow keys move it by pixels."],
  ["eyedropper", "Pick color (I)", "i", "Click the picture behind: the region is of that color."],
]; // prettier-ignore
