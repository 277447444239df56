//! What tells the hooks of IPv4 sockets from those of IPv6 sockets: where the address stands.

use aya_ebpf::programs::SockAddrContext;
use sluice_common::Addr;

use crate::raw;

/// How a hook reads and writes the address in its context.
pub trait Family {
    /// Whether the hook is one of IPv6 sockets.
    const IS_V6: bool;
    /// The address in the context.
    fn address(ctx: &SockAddrContext) -> Addr;
    /// Replaces it.
    fn set_address(ctx: &SockAddrContext, address: &Addr);
}

/// Hooks whose name ends in 4.
pub struct V4;
/// Hooks whose name ends in 6; IPv4-mapped addresses come through them too.
pub struct V6;

impl Family for V4 {
    const IS_V6: bool = false;
    #[inline(always)]
    fn address(ctx: &SockAddrContext) -> Addr {
        raw::address_v4(ctx)
    }
    #[inline(always)]
    fn set_address(ctx: &SockAddrContext, address: &Addr) {
        raw::set_address_v4(ctx, address);
    }
}

impl Family for V6 {
    const IS_V6: bool = true;
    #[inline(always)]
    fn address(ctx: &SockAddrContext) -> Addr {
        raw::address_v6(ctx)
    }
    #[inline(always)]
    fn set_address(ctx: &SockAddrContext, address: &Addr) {
        raw::set_address_v6(ctx, address);
    }
}
