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

/** How light a pixel is, as Pillow rounds it for guidance/regions/painter_png.py. */
export const lumaAt = (pixels, at) =>
  (19595 * pixels[at] + 38470 * pixels[at + 1] + 7471 * pixels[at + 2] + 0x8000) >> 16;
