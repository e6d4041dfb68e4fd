export { ApixModule, InjectMessaging } from "./module.js";
export { OnEvent, type OnEventOptions } from "./on-event.js";
export {
  APIX_MESSAGING,
  type ApixModuleAsyncOptions,
  type ApixModuleOptions,
  type ApixOptionsFactory,
  type Tenants,
} from "./options.js";
export { sendEvent, TenantSocket } from "./tenant-socket.js";
export {
  type SocketAuthenticator,
  type SocketHandshake,
  socketIoMiddleware,
  useTenantSockets,
} from "./tenant-sockets.js";
export { ApixWorkers } from "./workers.js";
// What handlers need, from one place.
export {
  ApixError,
  GiveUp,
  type Handling,
  type HybridOptions,
  type ProcessedEvent,
  type RealtimeMessage,
  RetryAfter,
  type StreamEvent,
  type Subscription,
  type TenantContext,
  TenantMessagingService,
} from "@apix/client";
