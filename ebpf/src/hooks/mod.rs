//! One file per attach point. A hook reads its context, calls one function, counts one reason, returns.

mod connect;
mod getpeername;
mod post_bind;
mod recvmsg;
mod sendmsg;
mod sk_lookup;
mod sock_ops;
mod tc;
mod xdp;
