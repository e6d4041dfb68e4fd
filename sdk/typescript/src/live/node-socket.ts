// A WebSocket client on node:http (RFC 6455), for Node 20, which has none, and for headers, which
// the standard one cannot send. Text only; no extensions.
import { createHash, randomBytes } from "node:crypto";
import { type IncomingMessage, request as httpRequest } from "node:http";
import { request as httpsRequest } from "node:https";
import type { Duplex } from "node:stream";
import { ApixError } from "../error.js";
import type { LiveSocket, SocketEnd, SocketHandlers, SocketRequest } from "./socket.js";
import { CLOSE, encodeFrame, FrameReader, PING, PONG, TEXT } from "./websocket-frames.js";

const KEY_SUFFIX = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/** How long the other side may take to answer a close. */
const CLOSE_TIMEOUT_MS = 2_000;
/** The most of a refusal that is read. */
const MAX_REFUSAL_CHARACTERS = 64 << 10;

export function openNodeSocket(request: SocketRequest, protocol: string, handlers: SocketHandlers): LiveSocket {
  const key = randomBytes(16).toString("base64");
  const open = request.url.protocol === "https:" ? httpsRequest : httpRequest;
  let socket: NodeSocket | undefined;
  let ended = false;
  const end = (how: SocketEnd) => {
    if (ended) return;
    ended = true;
    handlers.onEnd(how);
  };
  const handshake = open(request.url, {
    headers: {
      ...request.headers,
      authorization: `Bearer ${request.token}`,
      connection: "Upgrade",
      upgrade: "websocket",
      "sec-websocket-version": "13",
      "sec-websocket-key": key,
      "sec-websocket-protocol": protocol,
    },
    // A socket of its own: it is taken over.
    agent: false,
  });
  handshake.on("upgrade", (response, stream, head) => {
    const accepted = createHash("sha1").update(key + KEY_SUFFIX).digest("base64");
    if (ended || response.headers["sec-websocket-accept"] !== accepted) {
      stream.destroy();
      return end(broken("the server's WebSocket handshake is wrong"));
    }
    socket = new NodeSocket(stream, { ...handlers, onEnd: end });
    handlers.onOpen();
    socket.begin(head);
  });
  handshake.on("response", (response) => {
    void readRefusal(response).then((refusal) => end({ code: 1006, reason: refusal.message, refusal }));
  });
  handshake.on("error", (fault: Error) => end(broken(fault.message)));
  handshake.end();
  return {
    send: (text) => socket?.send(TEXT, Buffer.from(text)),
    drop: () => {
      ended = true;
      if (socket) socket.close(1000);
      else handshake.destroy();
    },
  };
}

function broken(reason: string): SocketEnd {
  return { code: 1006, reason };
}

async function readRefusal(response: IncomingMessage): Promise<ApixError> {
  let body = "";
  try {
    response.setEncoding("utf8");
    for await (const part of response) {
      body += part as string;
      if (body.length > MAX_REFUSAL_CHARACTERS) break;
    }
  } catch {
    // What was read is enough to tell the status.
  }
  return ApixError.fromAnswer(response.statusCode ?? 0, body, response.headers["retry-after"] ?? null);
}

class NodeSocket {
  private readonly reader = new FrameReader();
  private closing = false;
  private end: SocketEnd = broken("the connection broke");

  constructor(
    private readonly stream: Duplex,
    private readonly handlers: SocketHandlers,
  ) {}

  begin(head: Buffer): void {
    this.stream.on("data", (bytes: Buffer) => this.receive(bytes));
    this.stream.on("end", () => this.stream.destroy());
    this.stream.on("error", (fault: Error) => {
      if (!this.closing) this.end = broken(fault.message);
    });
    this.stream.on("close", () => this.handlers.onEnd(this.end));
    if (head.length > 0) this.receive(head);
  }

  send(opcode: number, payload: Buffer): void {
    if (!this.stream.writable || this.closing) return;
    this.stream.write(encodeFrame(opcode, payload));
  }

  close(code: number): void {
    if (this.closing) return;
    const payload = Buffer.alloc(2);
    payload.writeUInt16BE(code);
    this.send(CLOSE, payload);
    this.closing = true;
    const timer = setTimeout(() => this.stream.destroy(), CLOSE_TIMEOUT_MS);
    this.stream.once("close", () => clearTimeout(timer));
  }

  private receive(bytes: Buffer): void {
    try {
      for (const { opcode, payload } of this.reader.read(bytes)) this.handle(opcode, payload);
    } catch (fault) {
      this.end = broken((fault as Error).message);
      this.stream.destroy();
    }
  }

  private handle(opcode: number, payload: Buffer): void {
    if (opcode === CLOSE) {
      const code = payload.length >= 2 ? payload.readUInt16BE(0) : 1005;
      this.end = { code, reason: payload.subarray(2).toString("utf8") };
      this.close(code === 1005 ? 1000 : code);
      this.stream.end();
      return;
    }
    // A dropped socket hears nothing any more.
    if (this.closing) return;
    if (opcode === TEXT) this.handlers.onText(payload.toString("utf8"));
    else this.handlers.onAlive();
    if (opcode === PING) this.send(PONG, payload);
  }
}
