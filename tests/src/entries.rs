//! ServiceEntries as a person writes them.
//!
//! In: the few fields that differ. Out: YAML. Never: a field that the text does not show.

/// An entry with resolution DNS, port 80 named `http`, whose endpoint is `(name, port)`, or the host itself.
pub fn dns_entry(name: &str, host: &str, endpoint: Option<(&str, u16)>) -> String {
    let endpoints = endpoint.map_or_else(String::new, |(address, port)| {
        format!("  endpoints:\n  - address: {address}\n    ports:\n      http: {port}\n")
    });
    format!("{}  resolution: DNS\n{endpoints}", head(name, host, 80))
}

/// An entry with resolution STATIC whose endpoint is `address`, and its port.
pub fn static_entry(name: &str, host: &str, address: &str, port: u16) -> String {
    let endpoint = format!("  endpoints:\n  - address: {address}\n    ports:\n      http: {port}\n");
    format!("{}  resolution: STATIC\n{endpoint}", head(name, host, 80))
}

/// An entry that lists a port which may be wrong.
pub fn entry_with_port(name: &str, host: &str, port: u32) -> String {
    format!("{}  resolution: DNS\n", head(name, host, port))
}

fn head(name: &str, host: &str, port: u32) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata:\n  name: {name}\n  namespace: default\n\
         spec:\n  hosts:\n  - {host}\n  ports:\n  - name: http\n    number: {port}\n    protocol: HTTP\n"
    )
}
