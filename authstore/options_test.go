package authstore

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// By what the error must name.
var refusedOptions = map[string]Option{
	"WithCallTimeout(-1ns)":    WithCallTimeout(-1),
	"WithOutagePatience(-1ns)": WithOutagePatience(-1),
	"WithWindowWait(-1ns)":     WithWindowWait(-1),
	"WithSenderKeyCache(-1)":   WithSenderKeyCache(-1),
	"Retention.MessageSecrets": WithRetention(Retention{MessageSecrets: -1}),
	"Retention.SenderKeys":     WithRetention(Retention{SenderKeys: -1}),
	"Retention.PrivacyTokens":  WithRetention(Retention{PrivacyTokens: -1}),
	"Retention.FinishedEvents": WithRetention(Retention{FinishedEvents: -1}),
	"Retention.SentCount":      WithRetention(Retention{SentCount: -1}),
	"Retention.SetAside":       WithRetention(Retention{SetAside: -1}),
	"Retention.LIDs":           WithRetention(Retention{LIDs: -1}),
	"WithAEAD(nil)":            WithAEAD(nil),
	"WithSealingRemoved(nil)":  WithSealingRemoved(nil),
	"nil Option":               nil,
}

func TestOptionThatMakesNoSenseIsNamed(t *testing.T) {
	var all []Option
	for name, o := range refusedOptions {
		err := Validate(WithCallTimeout(time.Second), o)
		require.ErrorIs(t, err, ErrOptions)
		require.ErrorContains(t, err, name)
		all = append(all, o)
	}
	err := Validate(all...)
	for name := range refusedOptions {
		require.ErrorContains(t, err, name)
	}
	require.NoError(t, Validate())
}

func TestContainerWithOptionThatMakesNoSenseDoesNothing(t *testing.T) {
	for name, o := range refusedOptions {
		t.Run(name, func(t *testing.T) {
			kv := newMapKV()
			_, d, f := open(t, kv)
			require.NoError(t, d.Identities.PutIdentity(bg, "1:0", [32]byte{1}))
			gets, scans, commits := kv.gets.Load(), kv.scans.Load(), kv.commits.Load()
			c := New(kv, o, WithCallTimeout(time.Second))
			_, device := c.Device(bg, f)
			_, info := c.Info(bg)
			_, quarantined := c.Quarantined(bg)
			for call, err := range map[string]error{
				"Device": device, "Info": info, "Quarantined": quarantined,
				"Restore": c.Restore(bg, f), "PurgeDevice": c.PurgeDevice(bg, f), "PurgeRows": c.PurgeRows(bg, f),
				"Reseal": c.Reseal(bg, f, nil), "DropImport": DropImport(bg, c, f),
			} {
				require.ErrorIs(t, err, ErrOptions, call)
				require.ErrorContains(t, err, name, call)
			}
			require.NoError(t, c.EndTerm(bg))
			require.NoError(t, c.Close(bg))
			require.Equal(t, [...]int64{gets, scans, commits}, [...]int64{kv.gets.Load(), kv.scans.Load(), kv.commits.Load()})
		})
	}
}

func TestZeroOptionIsTheDefault(t *testing.T) {
	settings := func(opts ...Option) []any {
		require.NoError(t, Validate(opts...))
		c := &New(newMapKV(), opts...).cfg
		return []any{c.callTimeout, c.lookTimeout, c.outagePatience, c.windowWait, c.senderKeyCache, c.retention}
	}
	want := []any{10 * time.Second, 10 * time.Minute, 30 * time.Second, 3 * time.Second, 8 << 20, Retention{}.withDefaults()}
	require.Equal(t, want, settings())
	require.Equal(t, want, settings(WithCallTimeout(0), WithOutagePatience(0), WithWindowWait(0), WithSenderKeyCache(0), WithRetention(Retention{})))
}
