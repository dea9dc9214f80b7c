"use strict";
const slider = document.getElementById("instant");
if (slider) {
  const rows = [...document.querySelectorAll(".instant")];
  const label = document.getElementById("time");
  const show = () => {
    rows.forEach((row, i) => { row.hidden = i !== Number(slider.value); });
    label.value = rows[slider.value].dataset.time;
  };
  slider.addEventListener("input", show);
  show();
}
