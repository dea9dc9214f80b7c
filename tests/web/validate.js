// node validate.js FILE.glb: the report of the Khronos glTF validator, as JSON.
const { readFileSync } = require("node:fs");
const { validateBytes } = require("gltf-validator");

validateBytes(new Uint8Array(readFileSync(process.argv[2]))).then((report) =>
  console.log(JSON.stringify(report)),
);
