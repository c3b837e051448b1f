package reconnect

import "errors"

// ErrNewerFormat reports a state that a newer library wrote. It is never
// overwritten: update this instance.
var ErrNewerFormat = errors.New("reconnect: state has a newer format than this library knows: update this instance")

// Reason says why a connection ended, in one stable machine-readable word.
type Reason string

// The reasons.
const (
	ReasonNone                Reason = ""
	ReasonConnectionClosed    Reason = "connection_closed"
	ReasonConnectionLost      Reason = "connection_lost"
	ReasonTimedOut            Reason = "timed_out"
	ReasonRestartRequired     Reason = "restart_required"
	ReasonRequested           Reason = "requested"
	ReasonRedelivery          Reason = "redelivery"
	ReasonHandedOver          Reason = "handed_over"
	ReasonHolderLost          Reason = "holder_lost"
	ReasonClosedByProgram     Reason = "closed_by_program"
	ReasonConnectionReplaced  Reason = "connection_replaced"
	ReasonLoggedOut           Reason = "logged_out"
	ReasonAccountLocked       Reason = "account_locked"
	ReasonAccountBanned       Reason = "account_banned"
	ReasonTemporaryBan        Reason = "temporary_ban"
	ReasonClientOutdated      Reason = "client_outdated"
	ReasonServiceUnavailable  Reason = "service_unavailable"
	ReasonBadSession          Reason = "bad_session"
	ReasonMultideviceMismatch Reason = "multidevice_mismatch"
	ReasonConnectRejected     Reason = "connect_rejected"
	ReasonPairingFailed       Reason = "pairing_failed"
	ReasonQRExpired           Reason = "qr_expired"
	ReasonNetworkUnreachable  Reason = "network_unreachable"
	ReasonUntrustedServer     Reason = "untrusted_server"
	ReasonLockLost            Reason = "lock_lost"
	ReasonStoreUnavailable    Reason = "store_unavailable"
	ReasonIntentional         Reason = "intentional"
)
