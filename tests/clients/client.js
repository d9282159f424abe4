// Asks by node:http and by fetch; fetch has no say in the family.
//
// Usage: node client.js HOST PORT PATH any|4|6. Prints `== LIBRARY STATUS` and the body.
"use strict";
const http = require("node:http");

const [host, port, path, family] = process.argv.slice(2);
if (family === undefined) {
  console.error("usage: client.js HOST PORT PATH any|4|6");
  process.exit(2);
}

function byHttp() {
  const options = { host, port, path, timeout: 5000, family: family === "any" ? 0 : Number(family) };
  return new Promise((resolve, reject) => {
    const request = http.get(options, (answer) => {
      let body = "";
      answer.on("data", (piece) => (body += piece));
      answer.on("end", () => resolve([answer.statusCode, body]));
    });
    request.on("error", reject);
    request.on("timeout", () => request.destroy(new Error("no answer")));
  });
}

async function byFetch() {
  const answer = await fetch(`http://${host}:${port}${path}`, { signal: AbortSignal.timeout(5000) });
  return [answer.status, await answer.text()];
}

async function main() {
  const libraries = family === "any" ? { http: byHttp, fetch: byFetch } : { http: byHttp };
  for (const [name, ask] of Object.entries(libraries)) {
    const [status, body] = await ask();
    console.log(`== ${name} ${status}\n${body}`);
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
