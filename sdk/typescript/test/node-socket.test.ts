import { createHash } from "node:crypto";
import { createServer, type Server } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { afterEach, describe, expect, it } from "vitest";
import { openNodeSocket } from "../src/live/node-socket.js";
import type { SocketEnd } from "../src/live/socket.js";
import { encodeFrame, FrameReader, PING, PONG, TEXT } from "../src/live/websocket-frames.js";
import { until } from "./until.js";

let server: Server | undefined;
afterEach(() => {
  server?.closeAllConnections();
  server?.close();
  server = undefined;
});

/** A frame as servers send it: without a mask. */
function frame(opcode: number, payload: Buffer | string, final = true): Buffer {
  const bytes = Buffer.from(payload);
  const header =
    bytes.length < 126
      ? Buffer.from([0, bytes.length])
      : bytes.length < 65_536
        ? Buffer.from([0, 126, bytes.length >> 8, bytes.length & 255])
        : Buffer.concat([Buffer.from([0, 127, 0, 0, 0, 0]), Buffer.from(new Uint32Array([bytes.length]).buffer).reverse()]);
  header[0] = (final ? 0x80 : 0) | opcode;
  return Buffer.concat([header, bytes]);
}

/** What a client's frame says. */
function unmask(bytes: Buffer): string {
  const length = bytes[1]! & 0x7f;
  const mask = bytes.subarray(2, 6);
  return Buffer.from(bytes.subarray(6, 6 + length).map((byte, index) => byte ^ mask[index & 3]!)).toString();
}

async function connect(onUpgrade: (socket: Socket, headers: Record<string, any>) => void) {
  server = createServer((_request, response) => response.writeHead(403).end('{"error":{"code":"permission_denied","message":"no"}}'));
  server.on("upgrade", (request, socket: Socket) => {
    const accept = createHash("sha1").update(`${request.headers["sec-websocket-key"]}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest("base64");
    socket.on("error", () => {});
    socket.write(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`);
    onUpgrade(socket, request.headers);
  });
  await new Promise<void>((resolve) => server!.listen(0, "127.0.0.1", resolve));
  const texts: string[] = [];
  let end: SocketEnd | undefined;
  let open = false;
  let alive = 0;
  const url = new URL(`http://127.0.0.1:${(server.address() as AddressInfo).port}/v1/ws`);
  const socket = openNodeSocket({ url, token: "t", headers: { "apix-tenant": "acme" }, needsHeaders: true }, "apix.v1", {
    onOpen: () => (open = true),
    onText: (text) => texts.push(text),
    onAlive: () => (alive += 1),
    onEnd: (how) => (end = how),
  });
  return { socket, texts, end: () => end, isOpen: () => open, alive: () => alive };
}

describe("the WebSocket client for Node", () => {
  it("reads frames in whatever pieces they come", () => {
    const long = "ü".repeat(40_000);
    const whole = Buffer.concat([
      frame(TEXT, "one"),
      frame(TEXT, "tw", false),
      frame(PING, "!"),
      frame(0, "o", true),
      frame(TEXT, long),
      frame(TEXT, "x".repeat(300)),
      frame(TEXT, ""),
    ]);
    const right = [[TEXT, "one"], [PING, "!"], [TEXT, "two"], [TEXT, long], [TEXT, "x".repeat(300)], [TEXT, ""]];
    for (const size of [1, 2, 3, 7, 100, 1_000, whole.length]) {
      const reader = new FrameReader();
      const read: unknown[] = [];
      for (let start = 0; start < whole.length; start += size) {
        for (const { opcode, payload } of reader.read(whole.subarray(start, start + size))) read.push([opcode, payload.toString()]);
      }
      expect(read).toEqual(right);
    }
  });

  it("refuses what is no WebSocket", () => {
    const read = (...bytes: Buffer[]) => [...new FrameReader().read(Buffer.concat(bytes))];
    expect(() => read(Buffer.from("HTTP/1.1 400"))).toThrow();
    expect(() => read(encodeFrame(TEXT, Buffer.from("masked")))).toThrow(/masked/);
    expect(() => read(frame(0, "x"))).toThrow(/continuation/);
    expect(() => read(frame(TEXT, "a", false), frame(TEXT, "b"))).toThrow(/within/);
    expect(() => read(frame(5, "x"))).toThrow(/unknown kind/);
    expect(() => read(Buffer.from([0x81, 127, 255, 255, 255, 255, 255, 255, 255, 255]))).toThrow(/limits/);
  });

  it("writes frames of every length with a mask", () => {
    for (const length of [0, 1, 125, 126, 65_535, 65_536, 100_000]) {
      const bytes = encodeFrame(TEXT, Buffer.alloc(length, "a"));
      const header = length < 126 ? 6 : length < 65_536 ? 8 : 14;
      expect(bytes.length).toBe(length + header);
      expect(bytes[0]).toBe(0x81);
      expect(bytes[1]! & 0x80).toBe(0x80);
    }
  });

  it("sends its headers, answers pings, and says goodbye", async () => {
    const got: Buffer[] = [];
    let headers: Record<string, any> = {};
    let peer!: Socket;
    const client = await connect((socket, sent) => {
      headers = sent;
      peer = socket;
      socket.on("data", (bytes) => got.push(bytes));
      socket.write(Buffer.concat([frame(TEXT, "hello"), frame(PING, "p")]));
    });
    await until("the ping is answered", () => got.length > 0);
    expect(headers).toMatchObject({ authorization: "Bearer t", "apix-tenant": "acme", "sec-websocket-protocol": "apix.v1" });
    expect(client.texts).toEqual(["hello"]);
    expect([client.isOpen(), client.alive()]).toEqual([true, 1]);
    expect([got[0]![0]! & 15, unmask(got[0]!)]).toEqual([PONG, "p"]);
    client.socket.send("hi");
    await until("the text arrives", () => got.length > 1);
    expect(unmask(got[1]!)).toBe("hi");
    client.socket.drop();
    await until("the close arrives", () => got.length > 2);
    expect(got[2]![0]! & 15).toBe(8);
    peer.end();
    await until("the connection is gone", () => peer.destroyed);
    expect(client.end()).toBeUndefined();
  });

  it("tells why it ended", async () => {
    const client = await connect((socket) => socket.end(frame(8, Buffer.concat([Buffer.from([0x0f, 0xaa]), Buffer.from("drain")]))));
    await until("it has ended", () => client.end());
    expect(client.end()).toEqual({ code: 4010, reason: "drain" });
  });

  it("tells of a connection that broke, and of one that was never made", async () => {
    const client = await connect((socket) => setTimeout(() => socket.resetAndDestroy(), 10));
    await until("it has ended", () => client.end());
    expect(client.end()).toMatchObject({ code: 1006 });
    let end: SocketEnd | undefined;
    openNodeSocket({ url: new URL("http://127.0.0.1:1/"), token: "t", headers: {}, needsHeaders: false }, "apix.v1", {
      onOpen: () => {}, onText: () => {}, onAlive: () => {}, onEnd: (how) => (end = how),
    });
    await until("it has ended", () => end);
    expect(end).toMatchObject({ code: 1006, reason: expect.stringMatching(/ECONNREFUSED/) });
  });
});
