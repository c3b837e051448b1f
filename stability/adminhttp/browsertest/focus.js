// What has the focus, and whether one can see that it has.
(() => {
  const e = document.activeElement;
  if (!e || e === document.body) return { none: true };
  const s = getComputedStyle(e), r = e.getBoundingClientRect();
  const all = [...document.querySelectorAll("*")];
  return {
    place: all.indexOf(e),
    name: e.tagName.toLowerCase() + " " + (e.innerText || e.name || e.id || "").trim().slice(0, 40),
    label: (e.getAttribute("aria-label") || e.innerText || e.labels?.[0]?.innerText || "").trim(),
    visible: e.matches(":focus-visible") && (s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 1 || s.boxShadow !== "none"),
    onScreen: r.bottom > 0 && r.top < innerHeight && r.right > 0 && r.left < innerWidth && r.width > 0 && r.height > 0,
  };
})()
