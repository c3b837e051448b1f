package stability_test

import (
	"errors"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/appstate"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/keepalive"
	"github.com/wastability/wastability/stability"
)

// AppStateSyncError is an event of newer versions of whatsmeow, known by its name.
type AppStateSyncError struct {
	Name  appstate.WAPatchName
	Error error
}

func TestFailedAppStateIsShownUntilItIsSynced(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		var log logText
		a := w.instance(stability.WithLogger(slog.New(slog.NewTextHandler(&log, nil)))).run().pair()
		in := a.m.Client().DangerousInternals()
		require.Empty(t, a.status().Probes.AppStateFailed)
		for _, name := range []appstate.WAPatchName{appstate.WAPatchRegular, appstate.WAPatchCriticalBlock, appstate.WAPatchRegular} {
			in.DispatchEvent(&AppStateSyncError{name, errors.New("mismatching LTHash")})
		}
		require.Equal(t, []string{"critical_block", "regular"}, a.status().Probes.AppStateFailed)
		require.Equal(t, 2, log.count("a part of the app state could not be read"), "once each")
		require.Equal(t, keepalive.OK, a.status().Probes.Health, "messages are not affected")
		in.DispatchEvent(&events.AppStateSyncComplete{Name: appstate.WAPatchRegular})
		require.Equal(t, []string{"critical_block"}, a.status().Probes.AppStateFailed)
		a.stop()
	})
}
