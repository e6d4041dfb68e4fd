import {
  type LiveMessage,
  type LiveMessages,
  type MessagesOptions,
  type SubscribeOptions,
  type Subscription,
  type TenantContext,
  TenantMessagingService,
} from "@apix/client";
import { scopeOf } from "./tenant-socket.js";

/** The service as the module provides it: subscriptions of a socket's context end with the socket. */
export class SocketMessagingService extends TenantMessagingService {
  override async subscribeToRealtimeMessages<T = any>(
    context: TenantContext,
    channel: string,
    callback: (message: LiveMessage<T>) => unknown,
    options?: SubscribeOptions,
  ): Promise<Subscription> {
    const subscription = await super.subscribeToRealtimeMessages<T>(context, channel, callback, options);
    const forget = scopeOf(context)?.onEnd(() => subscription.unsubscribe());
    if (forget) void subscription.closed.then(forget);
    return subscription;
  }

  override realtimeMessages<T = any>(context: TenantContext, channel: string, options?: MessagesOptions): LiveMessages<T> {
    const messages = super.realtimeMessages<T>(context, channel, options);
    scopeOf(context)?.onEnd(() => messages.return());
    return messages;
  }
}
