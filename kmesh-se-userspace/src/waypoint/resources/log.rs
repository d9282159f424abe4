//! A line for each request and each connection, as Istio's proxies write it.
//!
//! In: the settings. Out: an access log on standard output, or none. Never: a file.

use envoy_types::pb::envoy::{
    config::{
        accesslog::v3::{AccessLog, access_log::ConfigType},
        core::v3::{DataSource, SubstitutionFormatString, data_source, substitution_format_string::Format},
    },
    extensions::access_loggers::stream::v3::{StdoutAccessLog, stdout_access_log::AccessLogFormat},
};

use super::words::any;
use crate::waypoint::Settings;

/// The fields of Istio's default text format, in its order.
const FIELDS: &[&str] = &[
    "[%START_TIME%]",
    "\"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\"",
    "%RESPONSE_CODE%",
    "%RESPONSE_FLAGS%",
    "%RESPONSE_CODE_DETAILS%",
    "%CONNECTION_TERMINATION_DETAILS%",
    "\"%UPSTREAM_TRANSPORT_FAILURE_REASON%\"",
    "%BYTES_RECEIVED%",
    "%BYTES_SENT%",
    "%DURATION%",
    "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    "\"%REQ(X-FORWARDED-FOR)%\"",
    "\"%REQ(USER-AGENT)%\"",
    "\"%REQ(X-REQUEST-ID)%\"",
    "\"%REQ(:AUTHORITY)%\"",
    "\"%UPSTREAM_HOST%\"",
    "%UPSTREAM_CLUSTER_RAW%",
    "%UPSTREAM_LOCAL_ADDRESS%",
    "%DOWNSTREAM_LOCAL_ADDRESS%",
    "%DOWNSTREAM_REMOTE_ADDRESS%",
    "%REQUESTED_SERVER_NAME%",
    "%ROUTE_NAME%",
];

/// The access log, if there is to be one.
pub(super) fn access_log(settings: &Settings) -> Vec<AccessLog> {
    if !settings.access_log {
        return Vec::new();
    }
    let line = FIELDS.join(" ") + "\n";
    let text =
        DataSource { specifier: Some(data_source::Specifier::InlineString(line)), ..DataSource::default() };
    let format = SubstitutionFormatString {
        format: Some(Format::TextFormatSource(text)),
        ..SubstitutionFormatString::default()
    };
    let stdout = StdoutAccessLog { access_log_format: Some(AccessLogFormat::LogFormat(format)) };
    vec![AccessLog {
        name: "envoy.access_loggers.stdout".to_owned(),
        config_type: Some(ConfigType::TypedConfig(any(&stdout))),
        ..AccessLog::default()
    }]
}
