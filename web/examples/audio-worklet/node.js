/** An AudioWorkletNode that runs a program. */

import { compileLibrary } from "../../site/lstm-edge/index.js"; // from npm: "lstm-edge"

/**
 * Return a node to connect between a source of one channel and a destination.
 *
 * @param {BaseAudioContext} context at the sampling rate of the network
 * @param {string} url of the `.lep` file
 */
export async function networkNode(context, url) {
  const [library, response] = await Promise.all([compileLibrary(), fetch(url)]);
  if (!response.ok) throw new Error(`${url}: ${response.status}`);
  const program = await response.arrayBuffer();
  await context.audioWorklet.addModule(new URL("processor.js", import.meta.url));
  const node = new AudioWorkletNode(context, "network", {
    channelCount: 1,
    outputChannelCount: [1],
    processorOptions: { library, program },
  });
  const answer = await new Promise((resolve) => {
    node.port.onmessage = ({ data }) => resolve(data);
  });
  if (answer !== "ready") throw new Error(answer);
  return node;
}
