package authstore

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"testing"

	"github.com/stretchr/testify/require"
)

// Credentials that are damaged are an error that names what is, at every start;
// they are never a crash, a fresh device, or written over.
func TestDamagedCredentialsAreAnErrorAndUntouched(t *testing.T) {
	bytesOf := func(n int) string { return base64.StdEncoding.EncodeToString(make([]byte, n)) }
	damage := map[string][]any{
		"noiseKey":        {nil, "", bytesOf(1), bytesOf(31), bytesOf(33), bytesOf(64), 7},
		"identityKey":     {nil, "", bytesOf(1), bytesOf(31), bytesOf(33), bytesOf(64), 7},
		"signedPreKey":    {nil, "", bytesOf(1), bytesOf(31), bytesOf(33), bytesOf(64), 7},
		"signedPreKeySig": {nil, "", bytesOf(1), bytesOf(32), bytesOf(63), bytesOf(65), 7},
		"jid":             {nil, "", "1:x@s.whatsapp.net", 7},
		"lid":             {"900:x@lid", 7},
		"facebookUuid":    {"no uuid", 7},
		"registrationId":  {"1", -1, 1 << 40},
	}
	kv := newMapKV()
	c, _, _ := open(t, kv)
	require.NoError(t, c.Close(bg))
	whole := kv.data[deviceKey()]
	check := func(name string, value any) {
		before := maps.Clone(kv.data)
		_, err := New(kv).Device(bg, newFence(kv.epoch))
		require.ErrorIs(t, err, ErrCorrupt, "%s: %v", name, value)
		require.ErrorContains(t, err, "left untouched", "%s: %v", name, value)
		_, err = Import(bg, FromKV("a damaged one", kv, newFence(kv.epoch)), New(newMapKV()), newFence(1))
		if name != "lid" && name != "facebookUuid" { // these are read by whoever loads the device
			require.ErrorIs(t, err, ErrCorrupt, "%s: %v", name, value)
		}
		require.Equal(t, before, kv.data, "%s: %v", name, value)
	}
	for name, values := range damage {
		for _, value := range values {
			kv.data[deviceKey()] = whole
			var fields map[string]any
			require.NoError(t, json.Unmarshal([]byte(storedDevice(t, kv)), &fields))
			fields[name] = value
			if value == nil {
				delete(fields, name)
			}
			text, err := json.Marshal(fields)
			require.NoError(t, err)
			putDevice(t, kv, string(text))
			check(name, value)
		}
	}
	for _, text := range []string{"", "null", "{}", "[]", storedDevice(t, kv)[:40]} {
		putDevice(t, kv, text)
		check("all of it", text)
	}
	kv.data[deviceKey()] = whole
	_, d, _ := open(t, kv)
	require.Equal(t, testJID(1), *d.ID, "what is put back works again")
}
