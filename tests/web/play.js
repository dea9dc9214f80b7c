// Opens /scene.glb. window.at(seconds) plays to a time and gives the world matrix of each object
// (columns, as three keeps them), window.picture() what a fixed camera sees: RGBA in base64.
import * as THREE from "three";
import { GLTFLoader } from "three/addons/loaders/GLTFLoader.js";

const gltf = await new GLTFLoader().loadAsync("/scene.glb");
const renderer = new THREE.WebGLRenderer({ preserveDrawingBuffer: true });
renderer.setSize(160, 120, false);
const stage = new THREE.Scene();
stage.add(gltf.scene);
const camera = new THREE.PerspectiveCamera(50, 160 / 120, 0.1, 100);
camera.position.set(0, 2.5, 3.5); // glTF's +y is up
camera.lookAt(0, 0, 0);
const mixer = new THREE.AnimationMixer(gltf.scene);
const tracks = THREE.AnimationClip.findByName(gltf.animations, "tracks");
// Clamped: at the end of a loop the first instant would show instead of the last.
const action = mixer.clipAction(tracks).setLoop(THREE.LoopOnce);
action.clampWhenFinished = true;
action.play();

window.at = (seconds) => {
  action.paused = false;
  action.enabled = true;
  mixer.setTime(seconds);
  gltf.scene.updateMatrixWorld(true);
  const matrices = {};
  gltf.scene.traverse((node) => {
    if ("id" in node.userData) matrices[node.userData.id] = node.matrixWorld.toArray();
  });
  return { matrices, duration: tracks.duration };
};

window.picture = () => {
  renderer.render(stage, camera);
  const context = renderer.getContext();
  const pixels = new Uint8Array(160 * 120 * 4);
  context.readPixels(0, 0, 160, 120, context.RGBA, context.UNSIGNED_BYTE, pixels);
  return btoa(String.fromCharCode(...pixels));
};
