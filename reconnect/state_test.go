package reconnect_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/reconnect"
)

func TestStateSurvivesEncoding(t *testing.T) {
	m := machine()
	_, now := drop(m, start, 0, reconnect.Cause{Reason: reconnect.ReasonTemporaryBan, Code: 402, Expire: time.Hour, Detail: "101: x"})
	m.Attempt(now)
	m.Disconnected(cause(reconnect.ReasonBadSession), now)
	m.Healed(now)
	want := m.State()
	data, err := reconnect.EncodeState(want)
	require.NoError(t, err)
	got, err := reconnect.DecodeState(data)
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func TestEmptyBytesAreTheZeroState(t *testing.T) {
	s, err := reconnect.DecodeState(nil)
	require.NoError(t, err)
	require.Equal(t, reconnect.State{}, s)
}

func TestNewerStateFormatIsNeverReadOrWritten(t *testing.T) {
	_, err := reconnect.DecodeState([]byte(`{"version":2,"waStatus":{"no":"longer a string"}}`))
	require.ErrorIs(t, err, reconnect.ErrNewerFormat)
	_, err = reconnect.EncodeState(reconnect.State{Version: 2})
	require.ErrorIs(t, err, reconnect.ErrNewerFormat)
}

func TestFieldsOfANewerLibrarySurvive(t *testing.T) {
	s, err := reconnect.DecodeState([]byte(`{"version":1,"retryCount":3,"mood":{"is":"good"},"RETRYCOUNT":4}`))
	require.NoError(t, err)
	m := reconnect.NewMachine(reconnect.Policy{}, s, middle)
	m.Attempt(start)
	data, err := reconnect.EncodeState(m.State())
	require.NoError(t, err)
	var all map[string]any
	require.NoError(t, json.Unmarshal(data, &all))
	require.Equal(t, map[string]any{"is": "good"}, all["mood"])
	require.EqualValues(t, 4, all["retryCount"])
	require.NotContains(t, all, "RETRYCOUNT")
}

func TestGarbageIsAnErrorAndNoFreshState(t *testing.T) {
	for _, text := range []string{"x", "[]", "{}", "null", "12", `{"version":"1"}`, `{"version":-1}`, `{"version":1,"attempts":3}`, `{"version":1`} {
		_, err := reconnect.DecodeState([]byte(text))
		require.Error(t, err, text)
	}
}

func FuzzDecodeState(f *testing.F) {
	for _, seed := range []string{"", "{}", `{"version":1,"attempts":["2026-01-02T03:04:05Z"],"x":1}`, `{"version":9}`, "\x00"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := reconnect.DecodeState(data)
		if err != nil {
			return
		}
		m := reconnect.NewMachine(reconnect.Policy{}, s, middle)
		sound(t, m.Resume(start), m.State(), start)
		again, err := reconnect.EncodeState(s)
		if err != nil { // an instant that JSON cannot carry
			return
		}
		back, err := reconnect.DecodeState(again)
		require.NoError(t, err)
		once, err := reconnect.EncodeState(back)
		require.NoError(t, err)
		require.JSONEq(t, string(again), string(once))
	})
}
