//! Short words for messages that are long to write.
//!
//! In: plain values. Out: parts of Envoy's messages. Never: a choice.

use std::{fmt::Display, time::Duration};

use envoy_types::pb::{
    envoy::config::core::v3::{
        Address, AggregatedConfigSource, ApiVersion, ConfigSource, SocketAddress, TypedExtensionConfig,
        address, config_source::ConfigSourceSpecifier, socket_address::PortSpecifier,
    },
    google::protobuf::{self, Any, BoolValue, UInt32Value},
};
use prost::{Message, Name};

/// A message with the URL of its type.
pub(super) fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

/// An extension and its configuration.
pub(super) fn extension<M: Message + Name>(name: &str, config: &M) -> TypedExtensionConfig {
    TypedExtensionConfig { name: name.to_owned(), typed_config: Some(any(config)) }
}

/// A duration; some fields take zero for "no limit".
pub(super) fn duration(duration: Duration) -> Option<protobuf::Duration> {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    Some(protobuf::Duration { seconds, nanos: duration.subsec_nanos().cast_signed() })
}

/// A number that differs from one that is not set.
pub(super) fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

/// A flag that differs from one that is not set.
pub(super) fn flag(value: bool) -> Option<BoolValue> {
    Some(BoolValue { value })
}

/// An address and a TCP port.
pub(super) fn socket(host: impl Display, port: u16) -> Option<Address> {
    let address = SocketAddress {
        address: host.to_string(),
        port_specifier: Some(PortSpecifier::PortValue(port.into())),
        ..SocketAddress::default()
    };
    Some(Address { address: Some(address::Address::SocketAddress(address)) })
}

/// Where other resources come from: the stream that this one came on.
pub(super) fn same_stream() -> Option<ConfigSource> {
    Some(ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource::default())),
        resource_api_version: ApiVersion::V3.into(),
        // What a service needs is always there; without it Envoy would begin to serve it incomplete.
        initial_fetch_timeout: duration(Duration::ZERO),
        ..ConfigSource::default()
    })
}
