/** The painting tools: name, label, key, what to do with it. The first is the one that a new painter starts with. */

const DRAG = "Drag to draw. Shift: equal width and height. Ctrl: no snapping. Click a shape to change it.";

export const TOOLS = [
  ["brush", "Brush (B)", "b", ""], ["eraser", "Eraser (E)", "e", ""],
  ["rectangle", "Rectangle (R)", "r", DRAG], ["ellipse", "Ellipse (O)", "o", DRAG],
  ["lasso", "Lasso (L)", "l", "Draw around the area."],
  ["polygon", "Polygon (P)", "p", "Click corners. Double-click or Enter closes it."],
  ["bucket", "Fill (G)", "g", "Click to fill an area up to the next region."],
  ["move", "Move (V)", "v", "Drag a region. Arrow keys move it by pixels."],
  ["eyedropper", "Pick color (I)", "i", "Click the background image to give the region that color."],
]; // prettier-ignore
