// The network at work beside the page: an image in, class scores and arrays out; then translations of an array of it.
"use strict";
function hcnnAnswer(network) {
  let arrays = {};
  return (question) => {
    const start = performance.now();
    if (question.kind === "image") {
      const found = network.forward(question.bytes);
      arrays = found.arrays;
      return { logits: found.logits, milliseconds: performance.now() - start };
    }
    const array = arrays[question.depth];
    if (question.kind === "array") return { array };
    const moved = network.translate(array, question.depth, question.shifts);
    const { logits } = network.forwardFrom(moved, question.depth);
    return { array: moved, logits, milliseconds: performance.now() - start };
  };
}
