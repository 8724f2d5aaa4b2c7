// The before/after view. Pictures lie over each other with opacities, so that any strength is mixed by the
// browser; the brush paints a mask, which is also sent to the server, where the download is made.
const find = (name) => element.querySelector(name);
const viewer = find(".viewer"), stage = find(".stage"), canvas = find("canvas"), split = find(".split input");
const region = find(".region"), worlds = [...element.querySelectorAll(".world")];
const LARGEST = 16, MASK_SIDE = 768;
let shown = null, zoom = 1, x = 0, y = 0, brush = null, erasing = false, mask = null;

function draw() {
  const width = stage.clientWidth, height = stage.clientHeight;
  zoom = Math.min(Math.max(zoom, 1), LARGEST);
  x = Math.min(0, Math.max(x, width * (1 - zoom)));
  y = Math.min(0, Math.max(y, height * (1 - zoom)));
  worlds.forEach((world) => { world.style.transform = `translate(${x}px, ${y}px) scale(${zoom})`; });
  find(".clip").style.clipPath = `inset(0 0 0 ${shown?.restored ? split.value : 100}%)`;
  find(".line").style.left = `${split.value}%`;
  stage.classList.toggle("zoomed", zoom > 1);
  stage.classList.toggle("close", shown !== null && zoom * width > 3 * shown.width);
}

function zoomBy(factor, atX = stage.clientWidth / 2, atY = stage.clientHeight / 2) {
  const before = zoom;
  zoom = Math.min(Math.max(zoom * factor, 1), LARGEST);
  x = atX - (atX - x) * zoom / before;
  y = atY - (atY - y) * zoom / before;
  draw();
}

// Shares of light and detail, as pellucid.strength mixes them.
function mix() {
  const [strength, light, detail] = window.pellucidMix ?? [1, 1, 1];
  const tone = strength * light, fine = strength * detail;
  const both = Math.min(tone, fine), more = Math.abs(tone - fine);
  find(".restored").style.opacity = more < 1 ? both / (1 - more) : 0;
  const one = find(".one"), source = shown?.[tone > fine ? "tone" : "detail"];
  if (source && more > 0 && one.getAttribute("src") !== source) one.src = source;
  one.style.opacity = more;
}

function set(picture, source) {
  if (source) picture.src = source; else picture.removeAttribute("src");
}

function show(value) {
  shown = value || null;
  viewer.classList.toggle("empty", !shown);
  if (!shown) return;
  stage.style.aspectRatio = `${shown.width} / ${shown.height}`;
  stage.style.maxWidth = `calc(70vh * ${shown.width / shown.height})`;
  element.querySelectorAll(".degraded").forEach((picture) => set(picture, shown.degraded));
  set(find(".restored"), shown.restored);
  set(find(".change"), shown.change);
  find(".one").removeAttribute("src");
  find(".about-change").textContent = shown.about_change ?? "";
  for (const where of [viewer, stage]) where.classList.toggle("alone", !shown.restored);
  const scale = Math.min(1, MASK_SIDE / Math.max(shown.width, shown.height));
  canvas.width = Math.max(1, Math.round(shown.width * scale));
  canvas.height = Math.max(1, Math.round(shown.height * scale));
  [zoom, x, y, erasing] = [1, 0, 0, false];
  toggle("change", false);
  toggle("brush", false);
  toggle("erase", false);
  clear();
  mix();
  draw();
}

function toggle(act, on) {
  find(`[data-act=${act}]`).setAttribute("aria-pressed", on);
  if (act === "change") find(".change").hidden = find(".about-change").hidden = !on;
  if (act === "erase") erasing = on;
  if (act !== "brush") return;
  brush = on ? { x: 0.5, y: 0.5 } : null;
  find(".brush-tools").hidden = canvas.hidden = !on;
  stage.classList.toggle("brushing", on);
  if (on) redraw();
}

// The mask: one share for each pixel of the canvas, painted hard and softened when it is used.
function clear() {
  mask = null;
  region.style.maskImage = region.style.webkitMaskImage = "";
  if (brush) redraw();
}

function paint(u, v) {
  mask ??= new Float32Array(canvas.width * canvas.height);
  const radius = find(".size").value / 100 * Math.max(canvas.width, canvas.height) / 2 / zoom ** 0.5;
  const middleX = u * canvas.width, middleY = v * canvas.height;
  for (let row = Math.max(0, Math.floor(middleY - radius)); row < Math.min(canvas.height, middleY + radius); row++) {
    for (let column = Math.max(0, Math.floor(middleX - radius)); column < Math.min(canvas.width, middleX + radius); column++) {
      if (Math.hypot(column + 0.5 - middleX, row + 0.5 - middleY) <= radius) mask[row * canvas.width + column] = erasing ? 0 : 1;
    }
  }
}

// Three means of a window are close to a Gaussian; windows are cut off at the edge.
function soften(values, radius) {
  const { width, height } = canvas;
  let from = Float32Array.from(values), to = new Float32Array(values.length);
  for (let turn = 0; radius && turn < 3; turn++) {
    for (const [lines, length, across, along] of [[height, width, width, 1], [width, height, 1, width]]) {
      for (let line = 0; line < lines; line++) {
        let sum = 0, count = 0;
        for (let i = -radius; i < length; i++) {
          if (i + radius < length) { sum += from[line * across + (i + radius) * along]; count++; }
          if (i - radius - 1 >= 0) { sum -= from[line * across + (i - radius - 1) * along]; count--; }
          if (i >= 0) to[line * across + i * along] = sum / count;
        }
      }
      [from, to] = [to, from];
    }
  }
  return from;
}

function picture(values, color) {
  const data = new ImageData(canvas.width, canvas.height);
  values.forEach((share, i) => data.data.set(color(Math.min(255, Math.max(0, Math.round(share * 255)))), 4 * i));
  const sheet = document.createElement("canvas");
  [sheet.width, sheet.height] = [canvas.width, canvas.height];
  sheet.getContext("2d").putImageData(data, 0, 0);
  return sheet;
}

function redraw() {
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  if (mask) context.drawImage(picture(mask, (share) => [255, 0, 128, share]), 0, 0);
  context.strokeStyle = "#fff";
  context.lineWidth = 2;
  context.beginPath();
  const radius = find(".size").value / 100 * Math.max(canvas.width, canvas.height) / 2 / zoom ** 0.5;
  context.arc(brush.x * canvas.width, brush.y * canvas.height, radius, 0, 7);
  context.stroke();
}

function commit() {
  if (!mask?.some(Boolean)) {
    clear();
    trigger("painted", { index: shown.index, region: null });
    return;
  }
  const soft = soften(mask, Math.round(find(".feather").value / 300 * Math.max(canvas.width, canvas.height)));
  const url = picture(soft, (share) => [255, 255, 255, share]).toDataURL("image/png");
  region.style.maskImage = region.style.webkitMaskImage = `url(${url})`;
  region.style.maskSize = region.style.webkitMaskSize = "100% 100%";
  trigger("painted", { index: shown.index, region: picture(soft, (share) => [share, share, share, 255]).toDataURL("image/png") });
}

// Pointers: one moves the line, the picture or the brush; two zoom.
const pointers = new Map();
let doing = null, span = 0;
const place = (event) => {
  const box = stage.getBoundingClientRect();
  return { x: event.clientX - box.left, y: event.clientY - box.top };
};
function brushAt(at) {
  brush = { x: (at.x - x) / zoom / stage.clientWidth, y: (at.y - y) / zoom / stage.clientHeight };
}
function moveLine(at) { split.value = at.x / stage.clientWidth * 100; draw(); }

stage.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  const at = place(event);
  pointers.set(event.pointerId, at);
  stage.setPointerCapture(event.pointerId);
  const onLine = Math.abs(at.x - split.value / 100 * stage.clientWidth) < 24;
  doing = pointers.size > 1 ? "pinch" : brush ? "paint" : zoom > 1 && !onLine ? "pan" : "line";
  if (doing === "pinch") span = 0;
  if (doing === "paint") { brushAt(at); paint(brush.x, brush.y); redraw(); }
  if (doing === "line" && shown?.restored) moveLine(at);
});
stage.addEventListener("pointermove", (event) => {
  const at = place(event), last = pointers.get(event.pointerId);
  if (!last) {
    if (brush) { brushAt(at); redraw(); }
    return;
  }
  pointers.set(event.pointerId, at);
  if (doing === "line" && shown?.restored) moveLine(at);
  if (doing === "pan") { x += at.x - last.x; y += at.y - last.y; draw(); }
  if (doing === "paint") {
    const steps = Math.ceil(Math.hypot(at.x - last.x, at.y - last.y) / 3) || 1;
    for (let step = 1; step <= steps; step++) {
      brushAt({ x: last.x + (at.x - last.x) * step / steps, y: last.y + (at.y - last.y) * step / steps });
      paint(brush.x, brush.y);
    }
    redraw();
  }
  if (doing === "pinch" && pointers.size === 2) {
    const [one, other] = [...pointers.values()];
    const now = Math.hypot(one.x - other.x, one.y - other.y);
    if (span) zoomBy(now / span, (one.x + other.x) / 2, (one.y + other.y) / 2);
    span = now;
  }
});
for (const end of ["pointerup", "pointercancel"]) {
  stage.addEventListener(end, (event) => {
    pointers.delete(event.pointerId);
    if (pointers.size) return;
    if (doing === "paint") commit();
    doing = null;
  });
}
stage.addEventListener("wheel", (event) => {
  if (!event.ctrlKey && zoom === 1) return; // the page scrolls
  event.preventDefault();
  const at = place(event);
  zoomBy(Math.exp(-event.deltaY / 300), at.x, at.y);
}, { passive: false });
stage.addEventListener("keydown", (event) => {
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (event.key === "+" || event.key === "=") zoomBy(1.5);
  else if (event.key === "-") zoomBy(1 / 1.5);
  else if (event.key === "0") zoomBy(1 / LARGEST);
  else if (event.key === " " && brush) { paint(brush.x, brush.y); redraw(); commit(); }
  else if (arrows && brush) {
    brush = { x: Math.min(1, Math.max(0, brush.x + arrows[0] / 50)), y: Math.min(1, Math.max(0, brush.y + arrows[1] / 50)) };
    redraw();
  } else if (arrows && zoom > 1) { x -= 40 * arrows[0]; y -= 40 * arrows[1]; draw(); }
  else return;
  event.preventDefault();
});
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-act]"), act = button?.dataset.act;
  if (act === "in") zoomBy(1.5);
  if (act === "out") zoomBy(1 / 1.5);
  if (act === "fit") zoomBy(1 / LARGEST);
  if (act === "clear") { clear(); commit(); }
  if (["change", "brush", "erase"].includes(act)) toggle(act, button.getAttribute("aria-pressed") !== "true");
});
split.addEventListener("input", draw);
find(".size").addEventListener("input", redraw);
find(".feather").addEventListener("change", () => { if (mask) commit(); });
window.addEventListener("pellucid-mix", mix);
new ResizeObserver(draw).observe(stage);
watch("value", () => show(props.value));
show(props.value);
