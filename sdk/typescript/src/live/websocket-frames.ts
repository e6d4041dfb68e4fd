// Frames of RFC 6455, as a client writes and reads them.
import { randomBytes } from "node:crypto";

export const TEXT = 0x1;
export const CLOSE = 0x8;
export const PING = 0x9;
export const PONG = 0xa;
const CONTINUATION = 0x0;
const BINARY = 0x2;
const FINAL = 0x80;
const MASKED = 0x80;

/** The largest message that is taken: far beyond what the server sends. */
const MAX_MESSAGE_BYTES = 64 << 20;

export interface Message {
  opcode: number;
  payload: Buffer;
}

/** One frame with a mask, as everything that a client sends must have. */
export function encodeFrame(opcode: number, payload: Buffer): Buffer {
  const length = payload.length;
  const extended = length < 126 ? 0 : length < 65_536 ? 2 : 8;
  const header = Buffer.alloc(2 + extended + 4);
  header[0] = FINAL | opcode;
  header[1] = MASKED | (extended === 0 ? length : extended === 2 ? 126 : 127);
  if (extended === 2) header.writeUInt16BE(length, 2);
  if (extended === 8) header.writeBigUInt64BE(BigInt(length), 2);
  const mask = randomBytes(4);
  mask.copy(header, 2 + extended);
  const masked = Buffer.allocUnsafe(length);
  for (let index = 0; index < length; index += 1) {
    masked[index] = (payload[index] as number) ^ (mask[index & 3] as number);
  }
  return Buffer.concat([header, masked]);
}

/** Puts frames and messages together from the pieces that arrive. */
export class FrameReader {
  private pieces: Buffer[] = [];
  private available = 0;
  private needed = 2;
  private fragments: Buffer[] = [];
  private fragmentBytes = 0;
  private fragmentOpcode = 0;

  /** The messages that are complete with `bytes`. Throws if they are no WebSocket frames. */
  *read(bytes: Buffer): Generator<Message> {
    this.pieces.push(bytes);
    this.available += bytes.length;
    while (this.available >= this.needed) {
      const frame = this.takeFrame();
      if (!frame) continue;
      const message = this.assemble(frame.final, frame.opcode, frame.payload);
      if (message) yield message;
    }
  }

  /** One frame, or nothing while `needed` says that more has to arrive. */
  private takeFrame(): (Message & { final: boolean }) | undefined {
    const buffer = this.joined();
    const [first, second] = [buffer[0] as number, buffer[1] as number];
    if ((first & 0x70) !== 0) throw new Error("a frame with an extension that was not agreed on");
    if ((second & MASKED) !== 0) throw new Error("a masked frame from the server");
    const short = second & 0x7f;
    const headerBytes = short < 126 ? 2 : short === 126 ? 4 : 10;
    if (buffer.length < headerBytes) return this.wait(headerBytes);
    const length = short < 126 ? short : short === 126 ? buffer.readUInt16BE(2) : Number(buffer.readBigUInt64BE(2));
    if (length > MAX_MESSAGE_BYTES) throw new Error("a frame beyond all limits");
    const frameBytes = headerBytes + length;
    if (buffer.length < frameBytes) return this.wait(frameBytes);
    const payload = buffer.subarray(headerBytes, frameBytes);
    this.pieces = [buffer.subarray(frameBytes)];
    this.available -= frameBytes;
    this.needed = 2;
    return { final: (first & FINAL) !== 0, opcode: first & 0x0f, payload };
  }

  private wait(needed: number): undefined {
    this.needed = needed;
    return undefined;
  }

  /** Joined only when there is enough: a large frame is not copied with every piece of it. */
  private joined(): Buffer {
    const joined = this.pieces.length === 1 ? (this.pieces[0] as Buffer) : Buffer.concat(this.pieces);
    this.pieces = [joined];
    return joined;
  }

  private assemble(final: boolean, opcode: number, payload: Buffer): Message | undefined {
    if (opcode >= CLOSE) return { opcode, payload };
    if (opcode !== CONTINUATION) {
      if (this.fragmentOpcode !== 0) throw new Error("a message within a message");
      if (opcode !== TEXT && opcode !== BINARY) throw new Error("a frame of an unknown kind");
      if (final) return { opcode, payload };
      this.fragmentOpcode = opcode;
    } else if (this.fragmentOpcode === 0) {
      throw new Error("a continuation of nothing");
    }
    this.fragments.push(payload);
    this.fragmentBytes += payload.length;
    if (this.fragmentBytes > MAX_MESSAGE_BYTES) throw new Error("a message beyond all limits");
    if (!final) return undefined;
    const whole = { opcode: this.fragmentOpcode, payload: Buffer.concat(this.fragments) };
    this.fragments = [];
    this.fragmentBytes = 0;
    this.fragmentOpcode = 0;
    return whole;
  }
}
