//! The service and the worker on the embedded broker, in memory.

#![allow(clippy::unwrap_used)] // a failed assertion is the point of a test

mod service;
mod worker;

use std::sync::Arc;

use apix::{Event, Json, TenantContext, TenantMessagingService};
use apix_embedded::{EmbeddedBroker, EmbeddedOptions, Location};

async fn service() -> TenantMessagingService {
    let options = EmbeddedOptions { location: Location::Memory, ..EmbeddedOptions::default() };
    TenantMessagingService::new(Arc::new(EmbeddedBroker::open(options).await.unwrap()))
}

fn acme() -> TenantContext {
    TenantContext::trusted("acme").unwrap()
}

fn event(n: u64) -> Event {
    Event::new("job", Json::encode(&n).unwrap())
}
