//! The pool of virtual addresses.

use super::*;

fn pool(v4: &str, v6: &str) -> VipPool {
    VipPool::new(VipRanges { v4: v4.parse().expect("a range"), v6: v6.parse().expect("a range") })
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

fn ensure(pool: &mut VipPool, name: &str, second: i64) -> Result<String, Exhausted> {
    let vips = pool.ensure(&HostName::new(name), at(second), |_| false)?;
    Ok(vips.iter().map(|a| a.to_string()).collect::<Vec<_>>().join(" "))
}

#[test]
fn addresses_come_in_order_and_a_host_keeps_its_own() -> Result<(), Exhausted> {
    let mut pool = VipPool::new(VipRanges::default());
    assert_eq!(ensure(&mut pool, "a.com", 0)?, "240.240.0.1 2001:2::1");
    assert_eq!(ensure(&mut pool, "b.com", 0)?, "240.240.0.2 2001:2::2");
    assert_eq!(ensure(&mut pool, "a.com", 1000)?, "240.240.0.1 2001:2::1");
    assert_eq!(pool.iter().count(), 2);
    Ok(())
}

#[test]
fn a_released_address_rests_and_the_range_is_gone_through_first() -> Result<(), Exhausted> {
    let mut pool = pool("10.0.0.0/29", "fd00::/64");
    for (i, name) in ["a", "b", "c"].iter().enumerate() {
        assert_eq!(ensure(&mut pool, name, 0)?, format!("10.0.0.{n} fd00::{n}", n = i + 1));
    }
    pool.release(&HostName::new("a"), at(0));
    assert!(pool.get(&HostName::new("a")).is_none());
    assert_eq!(ensure(&mut pool, "d", 100)?, "10.0.0.4 fd00::4", "the next in turn");
    assert_eq!(ensure(&mut pool, "e", 100)?, "10.0.0.5 fd00::5");
    assert_eq!(ensure(&mut pool, "f", 100)?, "10.0.0.6 fd00::6", "the last: .7 is the broadcast address");
    assert_eq!(ensure(&mut pool, "g", 100)?, "10.0.0.1 fd00::7", "around the end");
    pool.release(&HostName::new("b"), at(100));
    assert_eq!(ensure(&mut pool, "h", 159)?, "fd00::8", "10.0.0.2 still rests");
    assert_eq!(ensure(&mut pool, "i", 160)?, "10.0.0.2 fd00::9");
    assert_eq!(ensure(&mut pool, "h", 161)?, "fd00::8", "IPv4 is used up");
    pool.release(&HostName::new("i"), at(161));
    assert_eq!(ensure(&mut pool, "h", 221)?, "10.0.0.2 fd00::8", "a family that was missing is added");
    Ok(())
}

#[test]
fn only_when_both_families_are_used_up_is_there_no_address() -> Result<(), Exhausted> {
    let mut pool = pool("10.0.0.0/30", "fd00::/126");
    for expected in ["10.0.0.1 fd00::1", "10.0.0.2 fd00::2", "fd00::3"] {
        assert_eq!(ensure(&mut pool, expected, 0)?, expected);
    }
    let error = ensure(&mut pool, "late.com", 0).expect_err("nothing is left");
    assert_eq!(
        error.to_string(),
        "no virtual address is left for late.com: 10.0.0.0/30 and fd00::/126 are used up; give larger ranges"
    );
    Ok(())
}

#[test]
fn ranges_without_room_are_used_up_from_the_start() {
    for (v4, v6) in [("10.0.0.0/32", "fd00::/128"), ("10.0.0.0/31", "fd00::/128")] {
        assert!(ensure(&mut pool(v4, v6), "a.com", 0).is_err(), "{v4} {v6}");
    }
    let all = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffc/126";
    assert_eq!(
        ensure(&mut pool("255.255.255.252/30", all), "a.com", 0),
        Ok("255.255.255.253 ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffd".to_owned())
    );
}

#[test]
fn restored_addresses_stay_unless_they_are_outside_or_taken() -> Result<(), Exhausted> {
    let mut pool = pool("10.0.0.0/29", "fd00::/64");
    let vips = |v4: &str, v6: &str| Vips { v4: v4.parse().ok(), v6: v6.parse().ok() };
    pool.restore(&HostName::new("a"), vips("10.0.0.2", "fd00::2"));
    pool.restore(&HostName::new("taken"), vips("10.0.0.2", "fd00::3"));
    pool.restore(&HostName::new("outside"), vips("10.0.1.1", "fd01::3"));
    pool.restore(&HostName::new("network"), vips("10.0.0.0", "fd00::"));
    assert_eq!(pool.iter().count(), 2);
    assert_eq!(ensure(&mut pool, "a", 0)?, "10.0.0.2 fd00::2");
    assert_eq!(ensure(&mut pool, "taken", 0)?, "10.0.0.3 fd00::3", "the other family is new");
    assert_eq!(ensure(&mut pool, "outside", 0)?, "10.0.0.4 fd00::4");
    Ok(())
}

#[test]
fn assigned_addresses_come_from_whoever_has_them_and_what_is_left_rests() -> Result<(), Exhausted> {
    let mut pool = pool("10.0.0.0/29", "fd00::/64");
    let vips = |v4: &str, v6: &str| Vips { v4: v4.parse().ok(), v6: v6.parse().ok() };
    let host = |name: &str| HostName::new(name);
    assert_eq!(ensure(&mut pool, "a", 0)?, "10.0.0.1 fd00::1");
    assert_eq!(ensure(&mut pool, "b", 0)?, "10.0.0.2 fd00::2");
    // Of another host, and of nobody; that host keeps the rest.
    assert_eq!(pool.assign(&host("c"), vips("10.0.0.1", "fd00::5"), at(0)), [host("a")].into());
    assert_eq!(pool.get(&host("a")), Some(&vips("", "fd00::1")));
    assert_eq!(pool.host_of(ip("10.0.0.1")), Some(&host("c")));
    // What it had rests, for others; whoever is assigned it has it at once.
    assert!(pool.assign(&host("c"), vips("10.0.0.3", "fd00::5"), at(0)).is_empty());
    assert_eq!(pool.host_of(ip("10.0.0.1")), None);
    assert_eq!(ensure(&mut pool, "a", 1)?, "10.0.0.4 fd00::1");
    assert!(pool.assign(&host("d"), vips("10.0.0.1", ""), at(1)).is_empty());
    assert_eq!(ensure(&mut pool, "e", 100)?, "10.0.0.5 fd00::6");
    assert_eq!(
        pool.get(&host("d")),
        Some(&vips("10.0.0.1", "")),
        "its rest is over, and it is not given away"
    );
    // Outside the ranges there is nothing to assign.
    assert!(pool.assign(&host("d"), vips("192.0.2.1", "fd01::1"), at(100)).is_empty());
    assert_eq!(pool.get(&host("d")), None);
    Ok(())
}

#[test]
fn an_address_that_an_entry_writes_is_not_given_to_another() -> Result<(), Exhausted> {
    let written =
        with(entry("one/e", 1, "b.com"), |e| e.addresses = vec!["240.240.0.1/32".parse().expect("a net")]);
    let status = with(entry("one/f", 1, "c.com"), |e| e.status_addresses = vec![(ip("240.240.0.2"), None)]);
    let mut snapshot = snapshot([written, status]);
    let mut pool = VipPool::new(VipRanges::default());
    let vips = pool.ensure(&HostName::new("a.com"), at(0), |a| snapshot.is_written(a))?;
    assert_eq!(vips.v4, "240.240.0.3".parse().ok());
    assert_eq!(vips.v6, "2001:2::1".parse().ok());
    snapshot.remove(&object_ref(Kind::ServiceEntry, "one/e"));
    assert!(!snapshot.is_written(ip("240.240.0.1")) && snapshot.is_written(ip("240.240.0.2")));
    Ok(())
}
