//! Against bytes that others have made.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::{checksum::crc32c, *};

#[test]
fn checksums_are_those_of_the_rfcs() {
    // RFC 1071 §3: the words add up to ddf2.
    assert_eq!(ones(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    assert_eq!(ones(&[0xff]), 0x00ff);
    // RFC 3720 §B.4: CRC-32C of 32 bytes of zeros, and of ones.
    assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    // A header that is in many books.
    let header =
        [0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7];
    assert_eq!(residue(None, &header), 0xffff);
}

#[test]
fn what_is_built_reads_as_it_was_meant_and_a_flipped_bit_is_seen() {
    let (v4, v6) = (["10.0.0.1:1000", "10.0.0.2:80"], ["[fd00::1]:1000", "[fd00::2]:80"]);
    for carried in [Carried::Tcp(SYN), Carried::Udp, Carried::Sctp, Carried::Echo] {
        for [src, dst] in [v4, v6] {
            let mut packet = Packet::new(at(src), at(dst), carried);
            packet.options = 8;
            packet.extensions = vec![HOP_BY_HOP, DESTINATION, ROUTING];
            let mut frame = on_wire([2; 12], &packet.ip());
            let head = verify(&frame).unwrap();
            assert_eq!(head.ends.src.ip(), packet.src.ip());
            if carried != Carried::Echo {
                assert_eq!((head.ends.src, head.ends.dst), (packet.src, packet.dst));
            }
            let last = frame.len() - 1;
            frame[last] ^= 4;
            assert!(verify(&frame).is_err(), "{carried:?} {src}");
        }
    }
}
