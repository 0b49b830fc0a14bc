/** Pixels by way of a canvas. */

export function canvas(width, height) {
  return Object.assign(document.createElement("canvas"), { width, height });
}

/** Red, green, blue and alpha of every pixel, at another size each from the nearest. picture: anything drawable. */
export function pixelsOf(picture, width, height) {
  const context = canvas(width, height).getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = false;
  context.drawImage(picture, 0, 0, width, height);
  return context.getImageData(0, 0, width, height).data;
}
