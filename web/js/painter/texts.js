/** The painter's words in the editor's language; English is the key. {} stands for what is put in, in order. */

const ZH = {
  "Brush (B)": "画笔（B）",
  "Eraser (E)": "橡皮擦（E）",
  "Rectangle (R)": "矩形（R）",
  "Ellipse (O)": "椭圆（O）",
  "Lasso (L): draw round": "套索（L）：沿轮廓画一圈",
  "Polygon (P): click corners, double-click to close": "多边形（P）：逐点单击，双击闭合",
  "Bucket (G)": "油漆桶（G）",
  "Move a region (V)": "移动区域（V）",
  "Choose a region's color, paint its place, queue.": "选择区域的颜色，涂出它的位置，然后运行。",
  "The drawing cannot be read: {}": "无法读取画作：{}",
  "The drawing cannot be kept: {}": "无法保存画作：{}",
  "Version {} is not known here: update Fovea.": "不支持版本 {}：请更新 Fovea。",
  "The map is no PNG data URL.": "区域图不是 PNG 数据 URL。",
  "The map is not as large as the drawing.": "区域图的尺寸与画作不一致。",
  "64 regions are the most.": "最多 64 个区域。",
  "Brush size": "画笔大小",
  "Brush size: {} pixels ([ and ])": "画笔大小：{} 像素（[ 和 ]）",
  "No flat colors were found in that picture.": "该图片中没有找到纯色区域。",
  "That file is no picture.": "该文件不是图片。",
  "Undo (Ctrl+Z)": "撤销（Ctrl+Z）",
  "Redo (Ctrl+Y)": "重做（Ctrl+Y）",
  "Full screen (Escape ends it)": "全屏（按 Esc 退出）",
  "Painting tools": "绘画工具",
  "Clear the chosen region (Delete)": "清除所选区域（Delete）",
  "See all of it": "显示全部",
  "Picture behind the painting": "画作后面的底图",
  "How much of it shows": "底图的可见程度",
  "How much of the picture behind shows": "底图的可见程度",
  "Import a picture of flat colors": "导入纯色图片",
  "Export as PNG": "导出为 PNG",
  "Painting. Keys: B, E, R, O, L, P, G, V choose tools, brackets the size, digits a region.":
    "画布。按键：B、E、R、O、L、P、G、V 选择工具，方括号调整大小，数字选择区域。",
  "Regions": "区域",
  "Region": "区域",
  "Prompt of the whole picture": "整幅画面的提示词",
  "Prompt": "提示词",
  "Add a region": "添加区域",
  "Compose": "生成提示词",
  "Write the prompt from the regions": "由各区域生成提示词",
  "what is here": "这里有什么",
  "Color": "颜色",
  "Strength": "强度",
  "Color of region {}": "区域 {} 的颜色",
  "Prompt of region {}": "区域 {} 的提示词",
  "Strength of region {}": "区域 {} 的强度",
  "Leave this region out": "不使用该区域",
  "Left out: take it in again": "未使用：重新启用",
  "Move up": "上移",
  "Move down": "下移",
  "Delete region {}": "删除区域 {}",
  "No picture behind": "无底图",
  "Input": "输入",
  "Input: {}": "输入：{}",
  "Result: {}": "结果：{}",
  "Region painter": "区域画板",
};
const LANGUAGES = { zh: ZH };

let words = {};

/** Take the words of a language; one that is not here is English. */
export function useLanguage(language) {
  words = LANGUAGES[language] ?? {};
}

/** A text in the editor's language, with values in the places of {}. */
export function t(text, ...values) {
  return (words[text] ?? text).replaceAll("{}", () => values.shift());
}
