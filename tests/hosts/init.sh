#!/bin/bash
# Process 1 of a host, in new namespaces: a home, /tmp, /etc and /var of its own, the share, an SSH server.
set -eu
name=$1 ip=$2 H=$B/hosts/$1
mount --make-rprivate /
mount -t proc proc /proc
hostname "$name"
mkdir -p "$H"/{etc,etc.w,var,var.w,tmp,home}; chmod 1777 "$H/tmp"
mount -t overlay o -o lowerdir=/etc,upperdir="$H/etc",workdir="$H/etc.w" /etc
mount -t overlay o -o lowerdir=/var,upperdir="$H/var",workdir="$H/var.w" /var
mount -t tmpfs -o size=2g,mode=1777 shm /dev/shm
mount -t tmpfs -o mode=755 run /run; mkdir -p /run/sshd /run/lock
mount -t tmpfs -o mode=755 srv /srv; mkdir -p /srv/wheels /srv/site
mount --bind -o ro "$WHEELS" /srv/wheels
mount --bind -o ro "$SITE" /srv/site
mount -t tmpfs -o mode=755 mnt /mnt; mkdir -p /mnt/xray /srv/share; mount --bind "$B/share" /srv/share
[ -e "$H/no-share" ] || mount --bind /srv/share /mnt/xray
mount -t tmpfs -o mode=755 home /home; mkdir /home/ray; mount --bind "$H/home" /home/ray
mount -t tmpfs -o mode=700 root /root
id ray >/dev/null 2>&1 || useradd -u 1077 -d /home/ray -s /bin/bash -M -p '*' ray
[ -e /home/ray/.bashrc ] || cp /etc/skel/.bashrc /etc/skel/.profile /home/ray/
echo 'ray ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/ray; chmod 440 /etc/sudoers.d/ray
# What an administrator writes where there is no index; no other packages are to be had here.
printf '[global]\nno-index = true\nfind-links = /srv/wheels\ndisable-pip-version-check = true\n' >/etc/pip.conf
printf '127.0.0.1 localhost\n127.0.1.1 %s\n' "$name" >/etc/hosts  # Debian's own
echo "$name" >/etc/hostname; : >/etc/resolv.conf
mkdir -p /home/ray/.ssh
if [ "$name" = op ]; then cp "$B/keys/id" /home/ray/.ssh/xray-key; else cp "$B/keys/id.pub" /home/ray/.ssh/authorized_keys; fi
chown ray:ray /home/ray; chown -R ray:ray /home/ray/.ssh /home/ray/.bashrc /home/ray/.profile
chmod 700 /home/ray/.ssh; chmod 600 /home/ray/.ssh/*
[ -e /etc/ssh/host_$name ] || ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/host_$name
printf '%s\n' 'Port 22' "ListenAddress $ip" "HostKey /etc/ssh/host_$name" 'PasswordAuthentication no' \
  'KbdInteractiveAuthentication no' 'UsePAM no' 'PidFile none' 'MaxStartups 100' 'MaxSessions 100' >/etc/ssh/sshd_xray
cd "$H"  # it may lie in /tmp, which is another folder from here on
mount --bind "$H/tmp" /tmp
[ "$name" = op ] || /usr/sbin/sshd -D -f /etc/ssh/sshd_xray -E /var/log/sshd.log &
: >up
while :; do sleep 3600 & wait $! || true; done
