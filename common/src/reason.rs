//! Why a packet or a connection went where it went. Append-only: numbers are map indices, names are an interface.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $name:literal;)+) => {
        /// One outcome of a hook; counted per CPU in `REASONS` at the index of its number.
        #[repr(u8)]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Reason { $($(#[doc = $doc])+ $variant = $number,)+ }

        impl Reason {
            /// All of them, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Stable name for dumps, metrics and `explain`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What it means, for people.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+),)+ }
            }
        }
    };
}

reasons! {
    /// No frontend has this address, port and protocol: left untouched.
    NotOurs = 0, "not_ours";
    /// A connect was led to a backend.
    ConnectTranslated = 1, "connect_translated";
    /// A datagram of an unconnected socket was led to a backend.
    SendTranslated = 2, "send_translated";
    /// A datagram from a backend was shown to come from the address that the client had dialled.
    ReplyTranslated = 3, "reply_translated";
    /// getpeername showed the address that the client had dialled.
    PeerTranslated = 4, "peer_translated";
    /// The service has no endpoint at all: refused with ECONNREFUSED, or in answer to the packet.
    NoEndpoints = 5, "no_endpoints";
    /// A UDP connect to a service without endpoints: let through untranslated, for connect itself cannot fail.
    NoEndpointsUdpConnect = 6, "no_endpoints_udp_connect";
    /// Endpoints exist but the traffic policy allows none of them: sockets are left untranslated, packets dropped.
    NoLocalEndpoints = 7, "no_local_endpoints";
    /// The slot read belongs to another service (a change under way); refused, so that the client tries again.
    SlotMismatch = 8, "slot_mismatch";
    /// The slot names a backend that is not there; refused. This is a bug or a damaged map.
    BackendMissing = 9, "backend_missing";
    /// The reverse translation could not be stored, so the datagram was refused rather than answered by a stranger.
    RevnatFull = 10, "revnat_full";
    /// Session affinity led a client to the backend it had before; counted besides the translation.
    AffinityKept = 11, "affinity_kept";
    /// A process of the node tried to bind a port that is a NodePort: refused with EADDRINUSE.
    NodePortInUse = 12, "node_port_in_use";
    /// The pod wants to be left alone (annotation sluice.dev/socket-lb: "false"): left untouched.
    OptedOut = 13, "opted_out";
    /// The address is a cluster IP, but no Service has this port of it: refused with ECONNREFUSED; a UDP connect is let
    /// through, for connect itself cannot fail.
    UnknownPort = 14, "unknown_port";
    /// Rules hold for this frontend: the connect was left untranslated, for the redirector.
    Redirected = 15, "redirected";
    /// Rules hold for this frontend and the redirector is away: refused, or balanced without rules (counted besides the
    /// translation), as --l7-fail-closed says.
    NoRedirector = 16, "no_redirector";
    /// A connection was given to a listener of the redirector.
    Steered = 17, "steered";
    /// A packet for a port that is not the redirector's, of an address that is: dropped.
    UnlistedPort = 18, "unlisted_port";
    /// The first packet of a connection was led to a backend.
    PacketTranslated = 19, "packet_translated";
    /// A client's packet of a known connection was led to its backend.
    PacketKnown = 20, "packet_known";
    /// A backend's packet was shown to come from the address that the client had dialled.
    PacketReply = 21, "packet_reply";
    /// An ICMP error about a translated packet was led to whoever sent it.
    IcmpTranslated = 22, "icmp_translated";
    /// A ping of a Service's address was answered.
    EchoAnswered = 23, "echo_answered";
    /// The client is outside loadBalancerSourceRanges: dropped.
    SourceNotAllowed = 24, "source_not_allowed";
    /// The address is in the networks of cluster IPs, but no Service has it: dropped.
    UnallocatedAddress = 25, "unallocated_address";
    /// No source port was free to lead the connection to another node: dropped.
    SourcePortsTaken = 26, "source_ports_taken";
    /// The node has no route to the backend or to the client: dropped.
    NoRoute = 27, "no_route";
    /// The packet does not fit through the next link and may not be cut up: answered with ICMP.
    TooBig = 28, "too_big";
    /// Headers that are cut short or contradict themselves: left untouched.
    Malformed = 29, "malformed";
    /// A piece of a datagram whose first piece was not seen: left untouched.
    FragmentUnknown = 30, "fragment_unknown";
    /// The packet has no hops left: answered with ICMP.
    HopsExceeded = 31, "hops_exceeded";
    /// Refused without an answer, for too many were given within the second.
    AnswersExhausted = 32, "answers_exhausted";
    /// Left to the packet path by a socket's hook, for only packets show what decides.
    LeftToPackets = 33, "left_to_packets";
    /// SCTP whose port would have to change: refused, for its checksum covers the whole packet.
    SctpPort = 34, "sctp_port";
    /// A client's packet was sent to a pod's node in a tunnel; counted besides the translation.
    TunnelSent = 35, "tunnel_sent";
    /// A client's packet was taken out of a tunnel from another node; counted besides the translation.
    TunnelReceived = 36, "tunnel_received";
    /// An event was not told to whoever watches, for the ring buffer was full.
    EventLost = 37, "event_lost";
    /// An endpoint's reply to a connection that the redirector made under a pod's address: the node takes it.
    ReplySteered = 38, "reply_steered";
    /// An IPv4 packet without DF that is too big for the link was left to the node's stack, which cuts it up; counted besides
    /// the translation.
    LeftToStack = 39, "left_to_stack";
    /// One more connection of the packet path is remembered, and took no older one's place by its ends; counted besides the
    /// translation.
    FlowBegun = 40, "flow_begun";
    /// For a cluster IP, but neither TCP, UDP nor SCTP nor a ping that is answered, or a piece of a datagram whose first piece
    /// was not seen: dropped, for no machine has the address.
    Unserved = 41, "unserved";
    /// A router on the way to a pod's node said that packets in a tunnel do not fit: remembered, and told to the client whose
    /// packet it was, if that is to be seen.
    PathNarrowed = 42, "path_narrowed";
    /// A TCP connection that began without Sluice: with --beside-kube-proxy left to whoever translates it.
    BegunElsewhere = 43, "begun_elsewhere";
}

impl Reason {
    /// Its bit in a set of reasons.
    #[inline(always)]
    pub const fn bit(self) -> u64 {
        1 << self as u8
    }

    /// Whether whoever watches hears of this outcome: not of what is nobody's, nor of each packet of a connection.
    #[inline(always)]
    pub const fn is_told(self) -> bool {
        match self {
            Self::NotOurs
            | Self::ReplyTranslated
            | Self::PeerTranslated
            | Self::PacketKnown
            | Self::PacketReply
            | Self::ReplySteered
            // Counted besides others, which are told.
            | Self::AffinityKept
            | Self::TunnelSent
            | Self::LeftToStack
            | Self::TunnelReceived
            | Self::FlowBegun
            | Self::BegunElsewhere
            | Self::EventLost => false,
            Self::ConnectTranslated
            | Self::SendTranslated
            | Self::NoEndpoints
            | Self::NoEndpointsUdpConnect
            | Self::NoLocalEndpoints
            | Self::SlotMismatch
            | Self::BackendMissing
            | Self::RevnatFull
            | Self::NodePortInUse
            | Self::OptedOut
            | Self::UnknownPort
            | Self::Redirected
            | Self::NoRedirector
            | Self::Steered
            | Self::UnlistedPort
            | Self::PacketTranslated
            | Self::IcmpTranslated
            | Self::EchoAnswered
            | Self::SourceNotAllowed
            | Self::UnallocatedAddress
            | Self::SourcePortsTaken
            | Self::NoRoute
            | Self::TooBig
            | Self::Malformed
            | Self::FragmentUnknown
            | Self::HopsExceeded
            | Self::AnswersExhausted
            | Self::LeftToPackets
            | Self::SctpPort
            | Self::Unserved
            | Self::PathNarrowed => true,
        }
    }
}

/// Size of `REASONS`: room for growth without a change of layout, and as many as a set of them has bits.
pub const CAPACITY: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_indices_and_names_are_unique() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index, "{}", reason.name());
            let same = Reason::ALL.iter().filter(|other| other.name() == reason.name()).count();
            assert_eq!(same, 1, "{}", reason.name());
        }
        assert!(Reason::ALL.len() <= CAPACITY as usize);
    }
}
