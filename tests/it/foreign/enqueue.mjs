// Rings as a frontend in Node does, with nothing but what Node brings along: RESP over a socket.
// Environment: REDIS_URL, PREFIX, BROADCAST_ID, RUN_AT, TRACEPARENT, WRONG (a text that breaks the contract).
import { connect } from "node:net";

const { REDIS_URL, PREFIX, BROADCAST_ID, RUN_AT, TRACEPARENT, WRONG } = process.env;
const url = new URL(REDIS_URL);
const commands = [];
if (url.password) commands.push(["AUTH", decodeURIComponent(url.username || "default"), decodeURIComponent(url.password)]);
if (url.pathname.length > 1) commands.push(["SELECT", url.pathname.slice(1)]);

const job = {
  id: "node:1",
  args: { broadcast_id: BROADCAST_ID },
  run_at: new Date(RUN_AT).toISOString(),
  max_attempts: 3,
  traceparent: TRACEPARENT,
};
commands.push(["RPUSH", `{${PREFIX}}:ready:broadcast-send`, JSON.stringify(job), WRONG]);
commands.push(["PUBLISH", `{${PREFIX}}:wake`, "broadcast-send"]);

const encode = (parts) =>
  `*${parts.length}\r\n` + parts.map((part) => `$${Buffer.byteLength(part)}\r\n${part}\r\n`).join("");
const socket = connect(Number(url.port || 6379), url.hostname);
let answer = "";
socket.setEncoding("utf8");
socket.on("data", (data) => {
  answer += data;
  if (answer.startsWith("-") || answer.includes("\n-")) {
    console.error(answer);
    process.exit(1);
  }
  // Every command above is answered by one line.
  if (answer.split("\r\n").length > commands.length) socket.end();
});
socket.on("error", (error) => {
  console.error(error.message);
  process.exit(1);
});
socket.write(commands.map(encode).join(""));
