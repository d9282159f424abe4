//! Where things are: regions, zones, nodes.
//!
//! In: localities as text. Out: how near one place is to another. Never: a choice of backends.

use std::{fmt, str::FromStr};

use serde::Serialize;

use super::TrafficDistribution;

/// `region/zone/subzone`; what is not known is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Locality {
    /// The region.
    pub region: String,
    /// The zone in the region.
    pub zone: String,
    /// The part of the zone; whatever follows it in the text belongs to it.
    pub subzone: String,
}

impl Locality {
    /// The locality written as `region/zone/subzone`, of which parts may be missing at the end.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut parts = text.splitn(3, '/').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Self { region: next(), zone: next(), subzone: next() }
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        self.region.is_empty()
    }
}

impl FromStr for Locality {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let locality = Self::new(text);
        let has_gap =
            locality.region.is_empty() || (locality.zone.is_empty() && !locality.subzone.is_empty());
        if has_gap || text.ends_with('/') {
            return Err(format!(
                "`{text}` is not a locality: write REGION, REGION/ZONE or REGION/ZONE/SUBZONE"
            ));
        }
        Ok(locality)
    }
}

impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.region)?;
        for part in [&self.zone, &self.subzone].into_iter().filter(|part| !part.is_empty()) {
            write!(f, "/{part}")?;
        }
        Ok(())
    }
}

/// Where this node is. What is not known prefers nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Its locality; unknown: that of the Node object called `node`, if there is one.
    pub locality: Locality,
    /// Its name; empty when not known.
    pub node: String,
}

impl Place {
    /// How far away what is at `locality` on `node` is: 0 is the nearest.
    #[must_use]
    pub fn distance(&self, to: &Locality, node: &str, preferred: Option<TrafficDistribution>) -> u8 {
        let here = &self.locality;
        let is_region = !here.is_unknown() && here.region == to.region;
        let is_zone = is_region && here.zone == to.zone;
        let is_subzone = is_zone && here.subzone == to.subzone;
        match preferred {
            Some(TrafficDistribution::Any) => 0,
            Some(TrafficDistribution::PreferSameZone) => 2 - u8::from(is_region) - u8::from(is_zone),
            Some(TrafficDistribution::PreferSameNode) if !node.is_empty() && node == self.node => 0,
            None | Some(TrafficDistribution::PreferSameNode) => {
                4 - u8::from(is_region) - u8::from(is_zone) - u8::from(is_subzone)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_is_what_has_most_in_common() {
        let place = Place { locality: Locality::new("eu/eu-1/a"), node: "n1".to_owned() };
        let (zone, node) = (TrafficDistribution::PreferSameZone, TrafficDistribution::PreferSameNode);
        for (to, on, plain, same_zone, same_node) in [
            ("eu/eu-1/a", "n1", 1, 0, 0),
            ("eu/eu-1/a", "n2", 1, 0, 1),
            ("eu/eu-1/b", "", 2, 0, 2),
            ("eu/eu-1", "", 2, 0, 2),
            ("eu/eu-2/a", "", 3, 1, 3),
            ("us/eu-1/a", "", 4, 2, 4),
            ("", "", 4, 2, 4),
        ] {
            let to = Locality::new(to);
            assert_eq!(place.distance(&to, on, None), plain, "{to}");
            assert_eq!(place.distance(&to, on, Some(zone)), same_zone, "{to}");
            assert_eq!(place.distance(&to, on, Some(node)), same_node, "{to}");
            assert_eq!(place.distance(&to, on, Some(TrafficDistribution::Any)), 0);
            assert_eq!(
                Place::default().distance(&to, on, None),
                Place::default().distance(&Locality::default(), "", None)
            );
        }
    }

    #[test]
    fn a_locality_is_written_from_the_region_on() {
        for (text, shown) in [("a", "a"), ("a/b", "a/b"), ("a/b/c", "a/b/c"), ("a/b/c/d", "a/b/c/d")] {
            assert_eq!(text.parse::<Locality>().map(|l| l.to_string()).as_deref(), Ok(shown));
        }
        for text in ["", "/b", "a//c", "a/"] {
            assert!(text.parse::<Locality>().is_err(), "{text}");
        }
    }
}
