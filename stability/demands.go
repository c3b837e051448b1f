package stability

import (
	"time"

	"github.com/wastability/wastability/reconnect"
)

// demands counts how often in a row WhatsApp ended a connection with the demand
// for a new one. A connection that lasted ends the row. The state's RestartStreak
// counts otherwise: it has in it what the host asked for.
type demands struct {
	row   int
	end   time.Time // the end of a connection that was looked at last
	isOne bool      // that end is in row
}

// demandCode is the code of WhatsApp's demand. The host's wish for a new
// connection has none.
const demandCode = 515

// count looks at the state and returns the length of the row. A better reason for
// the same end may come later: the end counts once.
func (d *demands) count(st reconnect.State, connected bool, lasting time.Duration, now time.Time) int {
	if end := st.LastDisconnectAt; !end.Equal(d.end) {
		if st.ConnectedAt.After(d.end) && end.Sub(st.ConnectedAt) >= lasting {
			d.row = 0
		}
		d.end, d.isOne = end, false
	}
	if !d.isOne && st.LastDisconnectReason == reconnect.ReasonRestartRequired && st.LastDisconnectCode == demandCode {
		d.row++
		d.isOne = true
	}
	if connected && now.Sub(st.ConnectedAt) >= lasting {
		d.row = 0
	}
	return d.row
}
