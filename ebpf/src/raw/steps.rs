//! Steps of a packet's way as global functions: the verifier walks through each once by itself, whatever came before, where it
//! would walk through any other function once for each way to it. Such a function takes the context and a number at most, so
//! that all else is in [`Work`]. Source: kernel commit 51c39bb1d5d1 ("bpf: Introduce function-by-function verification").

use core::hint::black_box;

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use sluice_common::Reason;

use super::{flows, skb::Skb, xdp::Raw};
use crate::packet::{Frame, Step, Work, steps};

/// What every one of them does: finds the packet under way, and leaves what the step says in it.
#[inline(always)]
fn run<F: Frame>(frame: F, step: fn(F, &mut Work) -> Result<Reason, Reason>) -> u32 {
    if let Some(work) = flows::work() {
        work.outcome = step(frame, work);
    }
    0
}

/// Calls one. `work`, which it finds by itself, is shown to the compiler as seen by it.
#[inline(always)]
fn call<C>(ctx: *mut C, work: &mut Work, step: extern "C" fn(*mut C) -> u32) -> Result<Reason, Reason> {
    let work = black_box(work);
    step(ctx);
    black_box(work).outcome
}

macro_rules! steps {
    ($frame:ident of $ctx:ty: $($name:ident = $step:ident does $body:ident;)+) => {
        $(
            // SAFETY: no other symbol has this name.
            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $name(ctx: *mut $ctx) -> u32 {
                // The context must be used, or LLVM passes none.
                run($frame::of(black_box(ctx)), steps::$body)
            }
        )+

        /// Takes the step, as a function of its own.
        #[inline(always)]
        pub fn enter(ctx: *mut $ctx, work: &mut Work, step: Step) -> Result<Reason, Reason> {
            match step {
                $(Step::$step => call(ctx, work, $name),)+
                #[allow(unreachable_patterns, reason = "a packet without a socket buffer takes few of the steps")]
                _ => Err(Reason::NotOurs),
            }
        }
    };
}

/// Steps of packets that are socket buffers.
pub mod skb {
    use super::*;

    steps! { Skb of __sk_buff:
        skb_begin = Begin does begin;
        skb_error = Error does error;
        skb_unwrap = Unwrap does unwrap;
        skb_lead = Lead does lead;
        skb_refuse = Refuse does refuse;
        skb_too_big = TooBig does too_big;
        skb_hops_exceeded = HopsExceeded does hops_exceeded;
        skb_remember = Remember does remember;
        skb_try_port = TryPort does try_port;
        skb_read_inner = ReadInner does read_inner;
        skb_choose = Choose does choose;
    }
}

/// Steps of packets before there is a socket buffer.
pub mod raw {
    use super::*;

    steps! { Raw of xdp_md:
        raw_lead = Lead does lead;
        raw_remember = Remember does remember;
        raw_try_port = TryPort does try_port;
        raw_choose = Choose does choose;
    }
}
