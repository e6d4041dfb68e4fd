import type { LiveMessage } from "../message.js";

/** How far one stream was seen. */
export interface StreamPosition {
  /** The last id seen. */
  id: string;
  /** The life of the stream that the id belongs to. */
  epoch?: string | undefined;
}

/** How far a channel was seen, per stream that feeds it: what a subscription resumes after. */
export type Position = Record<string, StreamPosition>;

/** Before the first event of a stream. */
export const BEFORE_ALL = "0-0";

/** Follows the hybrid events of a channel. */
export class PositionTracker {
  private streams = new Map<string, StreamPosition>();

  /** A copy, to keep or to send. */
  get position(): Position {
    return Object.fromEntries([...this.streams].map(([stream, at]) => [stream, { ...at }]));
  }

  get isEmpty(): boolean {
    return this.streams.size === 0;
  }

  reset(position: Position): void {
    this.streams = new Map(Object.entries(position).map(([stream, at]) => [stream, { ...at }]));
  }

  /** Streams of `position` that are not followed yet. */
  unknown(position: Position): string[] {
    return Object.keys(position).filter((stream) => !this.streams.has(stream));
  }

  follow(stream: string, at: StreamPosition): void {
    this.streams.set(stream, { ...at });
  }

  /** Takes note of `message`; false if it was seen before. */
  advance({ stream, messageId, epoch }: LiveMessage): boolean {
    if (stream === undefined || messageId === undefined) return true;
    const seen = this.streams.get(stream);
    if (seen && seen.epoch === epoch && compareIds(messageId, seen.id) <= 0) return false;
    this.streams.set(stream, { id: messageId, epoch });
    return true;
  }
}

/** Compares two ids of one stream. Ids of different partitions have no order: the first counts as later. */
export function compareIds(a: string, b: string): number {
  const [idA, partitionA] = a.split("@");
  const [idB, partitionB] = b.split("@");
  if (partitionA !== partitionB) return 1;
  const [msA = "", seqA = ""] = (idA as string).split("-");
  const [msB = "", seqB = ""] = (idB as string).split("-");
  return compareDigits(msA, msB) || compareDigits(seqA, seqB);
}

/** Exact also beyond 2^53: ids are written without leading zeros. */
function compareDigits(a: string, b: string): number {
  if (a.length !== b.length) return a.length - b.length;
  return a < b ? -1 : a > b ? 1 : 0;
}
