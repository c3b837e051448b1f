package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	socketRace = `WARNING: DATA RACE
Read at 0x00c0002781e8 by goroutine 197:
  go.mau.fi/whatsmeow/socket.(*FrameSocket).SendFrame()
      socket/framesocket.go:124 +0x51

Previous write at 0x00c0002781e8 by goroutine 198:
  go.mau.fi/whatsmeow/socket.(*FrameSocket).Close()
      socket/framesocket.go:82 +0x334
==================
`
	answerRace = `WARNING: DATA RACE
Write at 0x00c0006ef510 by goroutine 11:
  runtime.closechan()
      runtime/chan.go:414 +0x0
  go.mau.fi/whatsmeow.(*Client).cancelResponse()
      request.go:66 +0x5c
  go.mau.fi/whatsmeow.(*Client).SendMessage()
      send.go:408 +0x48c7

Previous read at 0x00c0006ef510 by goroutine 1001:
  runtime.chansend()
      runtime/chan.go:176 +0x0
  go.mau.fi/whatsmeow.(*Client).receiveResponse()
      request.go:85 +0x379
==================
`
	refusedRace = `WARNING: DATA RACE
Write at 0x00c000b71d88 by goroutine 3860:
  go.mau.fi/whatsmeow/store.(*Device).Delete()
      store/store.go:266 +0x79
  go.mau.fi/whatsmeow.(*Client).handleConnectFailure()
      connectionevents.go:129 +0x609

Previous read at 0x00c000b71d88 by goroutine 3844:
  go.mau.fi/whatsmeow.(*Client).handlePairSuccess.func1()
      pair.go:104 +0x545
==================
`
	ourRace = `WARNING: DATA RACE
Read at 0x00c0006ef510 by goroutine 11:
  github.com/wastability/wastability/lock.(*term).Held()
      lock/term.go:80 +0x51

Previous write at 0x00c0006ef510 by goroutine 198:
  go.mau.fi/whatsmeow/socket.(*FrameSocket).Close()
      socket/framesocket.go:82 +0x334
==================
`
	failedByRace  = "--- FAIL: TestA (1.0s)\n    testing.go:1712: race detected during execution of test\n"
	failedByChild = "--- FAIL: TestB (1.0s)\n        \tError Trace:\tx.go:1\n        \tError:      \texit status 66\n"
	failedItself  = "--- FAIL: TestC (1.0s)\n        \tError Trace:\tx.go:1\n        \tError:      \tnot equal\n"
)

// A test is run again only if nothing but a known race went wrong.
func TestOnly(t *testing.T) {
	require.Equal(t, []string{"TestA"}, only(socketRace+failedByRace))
	require.Equal(t, []string{"TestA"}, only(answerRace+failedByRace))
	require.Equal(t, []string{"TestA"}, only(refusedRace+failedByRace))
	require.Equal(t, []string{"TestA", "TestB"}, only(answerRace+socketRace+failedByRace+failedByChild))
	for name, out := range map[string]string{
		"a race of ours":             ourRace + failedByRace,
		"one of ours among others":   socketRace + ourRace + failedByRace,
		"a failure beside a race":    socketRace + failedByRace + failedItself,
		"a failure beside a child's": socketRace + failedByChild + failedItself,
		"a failure without a race":   failedItself,
		"a panic":                    socketRace + failedByRace + "panic: boom\n",
		"nothing that is understood": "--- FAIL: TestA (1.0s)\n",
	} {
		require.Empty(t, only(out), name)
	}
}

// Go's own crash is told from every other.
func TestCrashed(t *testing.T) {
	const crash = `2000/01/01 00:00:00 INFO lock: term began
SIGSEGV: segmentation violation
PC=0x41cb49 m=6 sigcode=1 addr=0x0

goroutine 0 gp=0xc0000d2780 m=6 mp=0xc00015c808 [idle]:

goroutine 35081 gp=0xc000681c20 m=6 mp=0xc00015c808 [running, synctest bubble 142]:
runtime.systemstack_switch()
	/usr/local/go/src/runtime/asm_amd64.s:516 +0x8 fp=0xc00074e998 sp=0xc00074e988 pc=0x4d0368
runtime.(*timer).modify(0xc0009d5190, 0xd234d07aa95f400, 0x0, 0x1baaa28, {0x17f8900, 0x1baca98}, 0x0)
	/usr/local/go/src/runtime/time.go:638 +0x225 fp=0xc00074e9e8 sp=0xc00074e998 pc=0x4b1f65
`
	require.True(t, crashed.MatchString(crash))
	require.True(t, crashed.MatchString("ok\nThreadSanitizer: CHECK failed: tsan_rtl.cpp:346 \"((exiting || thr->fast_state.epoch() == kEpochLast)) != (0)\" (0x0, 0x0) (tid=21123)\n"))
	require.False(t, crashed.MatchString(strings.Replace(crash, ", synctest bubble 142", "", 1)))
	require.False(t, crashed.MatchString(strings.Replace(crash, "runtime.(*timer).modify", "main.f", 1)))
	require.False(t, crashed.MatchString("panic: boom\n[signal SIGSEGV: segmentation violation code=0x1]\n\ngoroutine 7 [running]:\nmain.f()\n"))
}
