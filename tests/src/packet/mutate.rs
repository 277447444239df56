//! Packets as nobody ought to send them: cut short, with lengths that lie, in pieces that overlap, with headers upon headers.

use super::{DESTINATION, ETHERNET, FRAGMENT, HOP_BY_HOP, ROUTING};
use crate::reference::Random;

/// Spoils a frame in one to three ways. At least one byte of what is behind the Ethernet header stays, for the kernel runs
/// no program on less.
pub fn mutate(frame: &mut Vec<u8>, most: usize, random: &mut Random) {
    for _ in 0..=random.below(3) {
        one(frame, random);
    }
    frame.truncate(most);
}

fn one(frame: &mut Vec<u8>, random: &mut Random) {
    let is_v6 = frame[ETHERNET] >> 4 == 6;
    match random.below(14) {
        0 => {
            let end = ETHERNET as u64 + 1 + random.below((frame.len() - ETHERNET) as u64);
            frame.truncate(end as usize);
        }
        1 => {
            let length = random.of(&[0, 1, 19, 20, 21, 27, 28, 39, 40, 41, 60, 1_500, 0xffff]);
            let at = if is_v6 { 4 } else { 2 };
            put(frame, at, &u16::to_be_bytes(length));
        }
        2 => put(frame, 0, &[random.next() as u8]),
        3 => {
            let next = random.of(&[0, 1, 4, 6, 17, 41, 43, 44, 47, 50, 51, 58, 59, 60, 132, 135, 255]);
            put(frame, if is_v6 { 6 } else { 9 }, &[next]);
        }
        4 => put(
            frame,
            6,
            &(random.of(&[0, 1, 2, 185, 0x1fff, 0x2000, 0x2001, 0x3fff, 0x4000, 0x8000]) as u16)
                .to_be_bytes(),
        ),
        5 => chain(frame, random),
        6 => put(frame, if is_v6 { 7 } else { 8 }, &[random.of(&[0, 1, 2])]),
        7 => {
            let more = random.below(64) as usize;
            frame.resize(frame.len() + more, random.next() as u8);
        }
        8 => {
            let place = random.below((frame.len() - ETHERNET) as u64) as usize;
            put(frame, place, &[0, 0]);
        }
        9 => {
            let body: Vec<u8> = (0..1 + random.below(120)).map(|_| random.next() as u8).collect();
            frame.truncate(ETHERNET);
            frame.extend(body);
        }
        10 => {
            let kind = random.of(&[[8, 0], [0x86, 0xdd], [8, 6], [0x81, 0], [0x88, 0xa8], [0x86, 0xdd]]);
            frame[12..14].copy_from_slice(&kind);
        }
        11 if is_v6 => {
            // IPv4 addresses in an IPv6 header, where they mean nothing.
            let addresses =
                random.of(&[[10, 96, 1, 1], [203, 0, 113, 3], [192, 168, 50, 2], [10, 244, 1, 10]]);
            let mapped = [&[0; 10][..], &[0xff; 2], &addresses].concat();
            let places = random.of::<&[usize]>(&[&[8], &[24], &[8, 24]]);
            places.iter().for_each(|at| put(frame, *at, &mapped));
        }
        _ => {
            let place = random.below((frame.len() - ETHERNET) as u64) as usize;
            let byte = frame[ETHERNET + place] ^ (1 << random.below(8));
            put(frame, place, &[byte]);
        }
    }
}

/// Writes as far as there are bytes; `at` counts from the IP header on.
fn put(frame: &mut [u8], at: usize, bytes: &[u8]) {
    for (place, byte) in frame.iter_mut().skip(ETHERNET + at).zip(bytes) {
        *place = *byte;
    }
}

/// Extension headers behind the IPv6 header, with lengths that may lie; of fragments too, several, with any offset.
fn chain(frame: &mut Vec<u8>, random: &mut Random) {
    let at = ETHERNET + 40;
    if frame.len() < at || frame[ETHERNET] >> 4 != 6 {
        return;
    }
    let (mut headers, mut next) = (Vec::new(), frame[ETHERNET + 6]);
    let most = random.of(&[2, 8, 60]);
    for _ in 0..=random.below(most) {
        let kind = random.of(&[HOP_BY_HOP, DESTINATION, DESTINATION, ROUTING, FRAGMENT, 51]);
        let length = if random.once_in(8) { random.next() as u8 } else { 0 };
        let offset = if random.once_in(3) { random.next() as u16 } else { random.of(&[0, 1, 8, 9]) };
        let offset = if kind == FRAGMENT { offset } else { 0 };
        let bytes = [&[next, length][..], &offset.to_be_bytes(), &[0, 0, 0, 7]].concat();
        headers.splice(0..0, bytes);
        next = kind;
    }
    frame[ETHERNET + 6] = next;
    let length = u16::from_be_bytes([frame[ETHERNET + 4], frame[ETHERNET + 5]]);
    let length = length.wrapping_add(headers.len() as u16);
    frame.splice(at..at, headers);
    put(frame, 4, &length.to_be_bytes());
}
