// Dark or light before the first paint; without a script "auto" is light.
"use strict";
(() => {
  const page = document.documentElement;
  if (page.dataset.theme !== "auto") return;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => page.classList.toggle("dark", dark.matches);
  dark.addEventListener("change", apply);
  apply();
})();
