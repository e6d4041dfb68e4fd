// A TCP proxy whose connections a test can cut, hold up or refuse.
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";

export class Proxy {
  private readonly pairs = new Set<[Socket, Socket]>();
  /** New connections are ended at once. */
  refusing = false;
  /** How many connections there were. */
  accepted = 0;

  private constructor(
    private readonly server: Server,
    private readonly target: URL,
  ) {
    server.on("connection", (client) => this.connect(client));
  }

  static async to(url: string): Promise<Proxy> {
    const server = createServer();
    const proxy = new Proxy(server, new URL(url));
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    return proxy;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  get open(): number {
    return this.pairs.size;
  }

  /** Cuts every connection, without a goodbye. */
  cut(): void {
    for (const [client, server] of this.pairs) {
      client.resetAndDestroy();
      server.destroy();
    }
  }

  /** Nothing of the server is read any more: its buffers fill. */
  hold(): void {
    this.held = true;
    for (const [, server] of this.pairs) server.pause();
  }

  release(): void {
    this.held = false;
    for (const [, server] of this.pairs) server.resume();
  }

  /** Cuts the connection as soon as the server has answered, whichever it is: the answer is lost. */
  loseNextAnswer(): Promise<void> {
    return new Promise((resolve) => {
      this.lose = resolve;
    });
  }

  async stop(): Promise<void> {
    this.cut();
    await new Promise((resolve) => this.server.close(resolve));
  }

  private held = false;
  private lose: (() => void) | undefined;

  private connect(client: Socket): void {
    this.accepted += 1;
    if (this.refusing) return void client.resetAndDestroy();
    const server = connect(Number(this.target.port), this.target.hostname);
    const pair: [Socket, Socket] = [client, server];
    this.pairs.add(pair);
    const end = () => {
      this.pairs.delete(pair);
      client.destroy();
      server.destroy();
    };
    for (const socket of pair) {
      socket.on("error", () => {});
      socket.on("close", end);
    }
    client.pipe(server);
    server.on("data", (bytes) => {
      if (!this.lose) {
        if (!client.write(bytes)) server.pause();
        return;
      }
      this.lose();
      this.lose = undefined;
      client.resetAndDestroy();
      server.destroy();
    });
    client.on("drain", () => this.held || server.resume());
  }
}
