"use strict";

// Players: copy one frame of each picture sheet onto its canvas, or show one frame of a drawing.
for (const player of document.querySelectorAll(".player")) {
  const labels = JSON.parse(player.dataset.labels);
  const panels = [...player.querySelectorAll("figure")].map((figure) => {
    const canvas = figure.querySelector("canvas"), sheet = figure.querySelector("img");
    const [columns, gutter] = [Number(sheet.dataset.columns), Number(sheet.dataset.gutter)];
    return { canvas, sheet, context: canvas.getContext("2d"), columns, gutter };
  });
  const marks = [...player.querySelectorAll("[data-frame]")];
  const [button, slider, output] = ["button", "input", "output"].map((name) => player.querySelector(name));
  let timer = null;

  const show = (frame) => {
    slider.value = frame;
    slider.setAttribute("aria-valuetext", labels[frame]);
    output.textContent = labels[frame];
    for (const { canvas, sheet, context, columns, gutter } of panels) {
      const { width, height } = canvas;
      const left = (frame % columns) * (width + 2 * gutter) + gutter;
      const top = Math.floor(frame / columns) * (height + 2 * gutter) + gutter;
      context.clearRect(0, 0, width, height);
      context.drawImage(sheet, left, top, width, height, 0, 0, width, height);
    }
    for (const mark of marks) {
      mark.setAttribute("visibility", Number(mark.dataset.frame) === frame ? "visible" : "hidden");
    }
  };
  const pause = () => {
    clearInterval(timer);
    timer = null;
    button.textContent = "Play";
  };
  const play = () => {
    const pace = Math.min(400, Math.max(90, 4500 / labels.length));
    timer = setInterval(() => show((Number(slider.value) + 1) % labels.length), pace);
    button.textContent = "Pause";
  };
  button.addEventListener("click", () => (timer === null ? play() : pause()));
  slider.addEventListener("input", () => { pause(); show(Number(slider.value)); });
  window.addEventListener("beforeprint", pause);

  const loaded = ({ sheet }) => sheet.complete || new Promise((done) => sheet.addEventListener("load", done));
  Promise.all(panels.map(loaded)).then(() => {
    player.querySelector(".controls").hidden = false;
    show(0);
    if (labels.length > 1 && !matchMedia("(prefers-reduced-motion: reduce)").matches) play();
  });
}

// Contents: mark the section that is being read; fold on a narrow screen.
const links = new Map([...document.querySelectorAll("nav a")].map((a) => [a.hash.slice(1), a]));
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    for (const link of links.values()) link.classList.remove("here");
    links.get(entry.target.id)?.classList.add("here");
  }
}, { rootMargin: "-15% 0px -75% 0px" });
for (const section of document.querySelectorAll("section")) watcher.observe(section);
if (matchMedia("(max-width: 62rem)").matches) document.querySelector("nav details").open = false;

// Paper has no folds.
window.addEventListener("beforeprint", () => {
  for (const fold of document.querySelectorAll("details")) fold.open = true;
});
