//! Why an object is rejected or warned about: the closed set of codes.
//!
//! In: nothing. Out: CamelCase codes, stable once released. Never: text for people, which is in `Issue`.

use std::fmt;

use super::Issue;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// A code that `validate`, `plan`, logs, metrics and status conditions show.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Reason {
            /// All codes there are.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The code as text.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }
        }
    };
}

reasons! {
    // Text that is no object.
    /// The bytes are not UTF-8.
    InvalidEncoding,
    /// Neither YAML nor JSON.
    InvalidSyntax,
    /// A document or list item that is not a mapping.
    NotAnObject,
    /// No `kind`.
    MissingKind,
    /// No `apiVersion`, or one that does not have this kind.
    UnknownApiVersion,
    /// A field holds a value of another type.
    WrongType,
    /// A field that the API does not have (warning).
    UnknownField,
    /// An object of this kind, namespace and name was read before (warning).
    ObjectDuplicate,

    // metadata
    /// No `metadata.name`.
    NameMissing,
    /// `metadata.name` is not a DNS subdomain.
    NameInvalid,
    /// `metadata.namespace` is not a DNS label.
    NamespaceInvalid,
    /// `metadata.creationTimestamp` is not RFC 3339.
    CreationTimestampInvalid,

    // hosts and addresses
    /// No hosts.
    HostsMissing,
    /// More hosts than the limit.
    TooManyHosts,
    /// The host is a bare `*`.
    HostIsBareWildcard,
    /// Not a DNS name.
    HostInvalid,
    /// Longer than 255.
    HostTooLong,
    /// The same host twice (warning).
    HostDuplicate,
    /// `*foo.com`: matches nothing (warning).
    HostPartialWildcard,
    /// More addresses than the limit.
    TooManyAddresses,
    /// Neither an IP nor a CIDR.
    AddressInvalid,
    /// A CIDR with a resolution that cannot have one.
    CidrNotAllowed,
    /// `status.addresses` holds something that is not an IP (warning).
    StatusAddressInvalid,

    // ports
    /// More ports than the limit.
    TooManyPorts,
    /// A port without a number.
    PortMissing,
    /// Not in 1..65535.
    PortOutOfRange,
    /// The same port number twice.
    PortDuplicate,
    /// Not a DNS label.
    PortNameInvalid,
    /// The same port name twice.
    PortNameDuplicate,
    /// A protocol that does not exist.
    ProtocolUnknown,
    /// `targetPort` is not in 1..65535.
    TargetPortOutOfRange,
    /// NONE goes to the port that is dialled (warning).
    TargetPortNotUsed,
    /// A TCP port that no address leads to (warning).
    TcpPortWithoutAddress,

    // location and resolution
    /// Neither MESH_EXTERNAL nor MESH_INTERNAL.
    LocationUnknown,
    /// A resolution that does not exist.
    ResolutionUnknown,
    /// Several hosts that a port cannot tell apart.
    MultipleHostsNeedHttpOrTls,
    /// DNS with addresses, TCP and several hosts (warning).
    MultipleHostsShareAddress,
    /// DNS without endpoints cannot resolve a wildcard.
    WildcardHostNeedsEndpoints,
    /// DYNAMIC_DNS needs wildcard hosts.
    DynamicDnsNeedsWildcard,
    /// DYNAMIC_DNS cannot have addresses.
    DynamicDnsWithAddresses,
    /// DYNAMIC_DNS cannot have endpoints.
    DynamicDnsWithEndpoints,
    /// DYNAMIC_DNS needs a protocol that carries the name.
    DynamicDnsProtocol,
    /// DYNAMIC_DNS inside the mesh cannot go through a waypoint.
    DynamicDnsInternalWithWaypoint,
    /// An annotation for a traffic distribution that does not exist (warning).
    TrafficDistributionUnknown,
    /// A label names a waypoint or its namespace as none can be called (warning).
    WaypointInvalid,

    // endpoints
    /// More endpoints than the limit.
    TooManyEndpoints,
    /// NONE cannot have endpoints.
    EndpointsNotAllowed,
    /// DNS_ROUND_ROBIN has at most one endpoint.
    RoundRobinNeedsOneEndpoint,
    /// Neither address nor network.
    EndpointAddressMissing,
    /// Neither an IP nor a name.
    EndpointAddressInvalid,
    /// STATIC with a name.
    EndpointNotAnIp,
    /// Only a network is given (warning).
    EndpointNetworkOnly,
    /// An endpoint's port name that the entry does not have.
    EndpointPortUnknown,
    /// An endpoint's port is not in 1..65535.
    EndpointPortOutOfRange,
    /// An endpoint's port name is not a DNS label.
    EndpointPortNameInvalid,
    /// More ports of one endpoint than the limit.
    TooManyEndpointPorts,
    /// More labels of one endpoint than the limit.
    TooManyLabels,
    /// A text that is longer than the API allows.
    FieldTooLong,
    /// Negative, or above 4294967295.
    WeightOutOfRange,
    /// A label that Kubernetes does not allow.
    LabelInvalid,
    /// A Unix path that is relative, empty or a directory.
    UnixPathInvalid,
    /// A Unix endpoint has no ports.
    UnixEndpointWithPorts,
    /// A Unix endpoint needs exactly one service port.
    UnixEndpointNeedsOnePort,
    /// A Unix socket cannot be reached from an inet socket (warning).
    UnixEndpointUnreachable,

    // selector, exportTo, subjectAltNames
    /// Selector together with endpoints.
    SelectorWithEndpoints,
    /// `*` or an empty key in a selector.
    SelectorInvalid,
    /// A selector that selects nothing (warning).
    SelectorEmpty,
    /// A selector with NONE is not used (warning).
    SelectorWithoutResolution,
    /// Not `.`, `*`, `~` or a namespace.
    ExportToInvalid,
    /// The same namespace twice.
    ExportToDuplicate,
    /// `*` or `~` beside others.
    ExportToConflict,
    /// Names of certificates are not checked at this layer (warning).
    SubjectAltNamesNotEnforced,

    // HTTPRoutes
    /// A parent without a name, or with a port that is none.
    RouteParentInvalid,
    /// A ServiceEntry of another namespace (warning).
    RouteParentNotAllowed,
    /// A field that says nothing here (warning).
    RouteFieldNotUsed,
    /// More of something than the Gateway API allows.
    RouteTooLong,
    /// A path, header, query parameter or method that no request can have.
    RouteMatchInvalid,
    /// A filter that says nothing, or not what it may.
    RouteFilterInvalid,
    /// A filter that is not built.
    RouteFilterUnsupported,
    /// A backend without a name or port, or with a weight that is none.
    RouteBackendInvalid,
    /// A backend of another namespace or of a kind that cannot answer (warning).
    RouteBackendNotAllowed,
    /// Not a duration, or longer than the whole.
    RouteTimeoutInvalid,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Issue {
    /// An issue with `field`, for `reason`, told as `message`.
    #[must_use]
    pub fn new(field: impl Into<String>, reason: Reason, message: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.as_str(), message: message.into() }
    }
}
