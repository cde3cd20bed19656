// Makes calls of the services of tests/protos with @grpc/grpc-js, and prints as JSON what came of
// them: node client.mjs TARGET PROTOS
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const [target, protos] = process.argv.slice(2);
const definition = loader.loadSync("probe.proto", { includeDirs: [protos], keepCase: true });
const { Probe } = grpc.loadPackageDefinition(definition).probe;
const client = new Probe(target, grpc.credentials.createInsecure(), {
  "grpc.max_receive_message_length": -1,
});

const LONG_S = 60;
const TIMEOUT_MS = 20_000;

function to(application, others = {}) {
  const metadata = new grpc.Metadata();
  metadata.set("application", application);
  for (const [key, value] of Object.entries(others)) metadata.set(key, value);
  return metadata;
}

function within(ms) {
  return { deadline: Date.now() + ms };
}

// Metadata as pairs, that of keys that end in "-bin" in hexadecimal.
function plain(metadata) {
  const entries = Object.entries(metadata.getMap());
  return Object.fromEntries(
    entries.map(([key, value]) => [key, Buffer.isBuffer(value) ? value.toString("hex") : value]),
  );
}

function outcome(status, rest) {
  return {
    code: status.code,
    details: status.details,
    trailers: plain(status.metadata),
    ...rest,
  };
}

// What a call came to whose answer is one message.
function unary(begin) {
  return new Promise((resolve) => {
    let reply = null;
    let initial = {};
    const call = begin((error, value) => {
      reply = value ?? null;
    });
    call.on("metadata", (metadata) => (initial = plain(metadata)));
    call.on("status", (status) => setImmediate(() => resolve(outcome(status, { reply, initial }))));
  });
}

// What a call came to whose answer is a stream; onReply may send, cancel, or wait.
function streamed(call, onReply = () => {}) {
  return new Promise((resolve) => {
    const texts = [];
    call.on("data", (reply) => {
      texts.push(reply.text);
      onReply(call, texts.length);
    });
    call.on("error", () => {});
    call.on("status", (status) => resolve(outcome(status, { texts })));
  });
}

const cases = {
  unary: () =>
    unary((done) =>
      client.One(
        { text: "first", label: { name: "label", notes: { key: "value" } } },
        to("kinds"),
        within(TIMEOUT_MS),
        done,
      ),
    ),

  async large_unary() {
    const payload = Buffer.alloc(5_000_000, "payload ");
    const { code, reply } = await unary((done) =>
      client.One({ payload }, to("kinds"), within(TIMEOUT_MS), done),
    );
    return { code, same: reply !== null && payload.equals(reply.payload) };
  },

  server_stream: () =>
    streamed(client.Many({ text: "item", count: 50 }, to("kinds"), within(TIMEOUT_MS))),

  client_stream: () =>
    unary((done) => {
      const call = client.Gather(to("kinds"), within(TIMEOUT_MS), done);
      for (const text of ["a", "b", "c"]) call.write({ text });
      call.end();
      return call;
    }),

  ping_pong() {
    const call = client.Chat(to("kinds"), within(TIMEOUT_MS));
    call.write({ text: "0", count: 1 });
    return streamed(call, (_, replies) => {
      if (replies < 5) call.write({ text: `${replies}`, count: 1 });
      else call.end();
    });
  },

  empty_stream() {
    const call = client.Chat(to("kinds"), within(TIMEOUT_MS));
    call.end();
    return streamed(call);
  },

  deadline: () =>
    unary((done) =>
      client.One({ text: "node-deadline", seconds: LONG_S }, to("graph"), within(1_500), done),
    ),

  cancel_unary: () =>
    unary((done) => {
      const call = client.One({ text: "node-unary", seconds: LONG_S }, to("graph"), done);
      setTimeout(() => call.cancel(), 1_000);
      return call;
    }),

  cancel_stream: () =>
    streamed(
      client.Many({ text: "node-stream", count: 2, seconds: LONG_S }, to("graph")),
      (call) => call.cancel(),
    ),

  cancel_chat() {
    const call = client.Chat(to("graph"));
    call.write({ text: "node-chat" });
    // Node half-closes a stream before it resets it: the handler is to have something else to do.
    call.write({ text: "node-chat", seconds: LONG_S });
    return streamed(call, () => call.cancel());
  },

  error: () =>
    unary((done) =>
      client.Fail(
        { code: 15, how: "set", details: "data löst ☺", trailers: { "x-why": "lost" } },
        to("statuses", { request_id: "node-error" }),
        within(TIMEOUT_MS),
        done,
      ),
    ),

  error_midway: () =>
    streamed(
      client.FailMidway(
        { code: 15, how: "abort", details: "midway", trailers: { "x-why": "lost" }, after: 3 },
        to("statuses"),
        within(TIMEOUT_MS),
      ),
    ),

  exception: () =>
    unary((done) =>
      client.Fail(
        { how: "raise" },
        to("statuses", { request_id: "node-raises" }),
        within(TIMEOUT_MS),
        done,
      ),
    ),

  metadata: () =>
    unary((done) =>
      client.One(
        {},
        to("statuses", { "x-initial": "1", "x-trailing-bin": Buffer.from([0, 255]) }),
        within(TIMEOUT_MS),
        done,
      ),
    ),

  unimplemented: () =>
    unary((done) => client.Nobody({}, to("kinds"), within(TIMEOUT_MS), done)),

  not_found: () => unary((done) => client.One({}, to("nobody"), within(TIMEOUT_MS), done)),
};

const names = Object.keys(cases);
const outcomes = await Promise.all(names.map((name) => cases[name]()));
client.close();
console.log(JSON.stringify(Object.fromEntries(names.map((name, i) => [name, outcomes[i]]))));
