/** The painting tools: name, label in English, key. The first is the one that a new painter starts with. */

export const TOOLS = [
  ["brush", "Brush (B)", "b"], ["eraser", "Eraser (E)", "e"], ["rectangle", "Rectangle (R)", "r"],
  ["ellipse", "Ellipse (O)", "o"], ["lasso", "Lasso (L): draw round", "l"],
  ["polygon", "Polygon (P): click corners, double-click to close", "p"], ["bucket", "Bucket (G)", "g"],
  ["move", "Move a region (V)", "v"],
]; // prettier-ignore
